"""Save and load a trained head: safetensors for a torch module, skops for an estimator, no pickle."""

from pathlib import Path
from typing import Any

from autotl.atomic_io import write_atomically
from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.recipe import Params

__all__ = ["load_head", "save_head"]

ALWAYS_BUILT = 10_000
"""Sizes up to this are built without comparing them to the sizes of the file's tensors."""
DENSE, ESTIMATOR = "head.safetensors", "head.skops"


def save_head(head: Any, folder: Path) -> None:
    """Write a trained dense head to `head.safetensors`, a fitted estimator to `head.skops`, atomically."""
    if hasattr(head, "state_dict"):
        import safetensors.torch

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        write_atomically(folder / DENSE, safetensors.torch.save(tensors))
    else:
        import skops.io

        write_atomically(folder / ESTIMATOR, skops.io.dumps(head))


def load_head(spec: Head, params: Params, num_features: int, num_classes: int, folder: Path) -> Any:
    """Load what `save_head` wrote: a dense head on the CPU in eval mode, or a fitted estimator.

    Args:
        spec: the recipe's head. It rebuilds a dense head, and lists the types that an estimator may contain.
        params: the recipe's `head_params`.

    Raises:
        AutotlError: the file is missing, damaged, of another architecture, or contains untrusted types.
    """
    path = folder / (DENSE if spec.type == "dense" else ESTIMATOR)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AutotlError(f"{path} is missing: the model is incomplete. Copy its whole folder again.") from None
    if spec.type == "dense":
        return _dense(content, spec, params, num_features, num_classes, path)
    head = _estimator(content, spec, path)
    head_features = getattr(head, "n_features_in_", num_features)
    if head_features != num_features or not (hasattr(head, "predict_proba") or hasattr(head, "decision_function")):
        raise AutotlError(f"{path} is not a classifier of {num_features:,} features, which its model describes.")
    return head


def _dense(content: bytes, spec: Head, params: Params, num_features: int, num_classes: int, path: Path) -> Any:
    import safetensors
    import safetensors.torch

    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    # a forged manifest could state a width of a billion: don't allocate sizes that the file's tensors don't have
    largest = max([ALWAYS_BUILT, *(size for tensor in tensors.values() for size in tensor.shape)])
    sizes = {"num_features": num_features, "num_classes": num_classes, **params}
    for name, value in sizes.items():
        if isinstance(value, int) and value > largest:
            raise _mismatch(path, f"{name} is {value:,}, more than any size in the file.")
    try:
        head = spec.build(params, num_features, num_classes, seed=0)
        head.load_state_dict(tensors)
    except (TypeError, KeyError, ValueError) as error:
        raise _mismatch(path, repr(error)) from error
    except RuntimeError as error:
        raise _mismatch(path, str(error)) from error
    return head.eval()


def _estimator(content: bytes, spec: Head, path: Path) -> Any:
    """Load with skops, which lists the types in a file without creating objects, and creates only trusted types."""
    import io
    from zipfile import ZipFile

    import skops.io

    try:
        with ZipFile(io.BytesIO(content)) as parts:
            stated = sum(part.file_size for part in parts.infolist())
        if stated > len(content):  # skops doesn't compress: a larger size is a decompression bomb
            raise ValueError(f"its parts state {stated:,} bytes, more than the file's {len(content):,}")
        untrusted = sorted(set(skops.io.get_untrusted_types(data=content)) - set(spec.trusted))
        if untrusted:
            raise AutotlError(
                f"{path} contains types that head {spec.name!r} doesn't trust, so it isn't loaded: "
                f"{', '.join(untrusted)}. If they belong to your own head, list them in its `trusted`."
            )
        return skops.io.loads(content, trusted=list(spec.trusted))
    except AutotlError:
        raise
    except Exception as error:  # a forged file can make skops raise nearly any exception
        raise _damaged(path, error) from error


def _mismatch(path: Path, reason: str) -> AutotlError:
    return AutotlError(f"{path} is not the head that its model describes: {reason} Copy the model's folder again.")


def _damaged(path: Path, error: Exception) -> AutotlError:
    return AutotlError(f"{path} is damaged ({type(error).__name__}: {error}). Copy the model's folder again.")
