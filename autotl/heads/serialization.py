"""A trained head in a folder: safetensors for a torch module, skops for an estimator. No pickle."""

from pathlib import Path
from typing import Any

from autotl.atomic_io import write_atomically
from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.recipe import Params

__all__ = ["load_head", "save_head"]

SMALL = 10_000
"""A number up to this is built without asking whether the file is large enough."""
DENSE, ESTIMATOR = "head.safetensors", "head.skops"


def save_head(head: Any, folder: Path) -> None:
    """Write a trained dense head as `head.safetensors`, a fitted estimator as `head.skops`, whole or not at all."""
    if hasattr(head, "state_dict"):
        import safetensors.torch

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
        write_atomically(folder / DENSE, safetensors.torch.save(tensors))
    else:
        import skops.io

        write_atomically(folder / ESTIMATOR, skops.io.dumps(head))


def load_head(spec: Head, params: Params, num_features: int, num_classes: int, folder: Path) -> Any:
    """What `save_head` wrote: a dense head on the CPU in eval mode, or a fitted estimator.

    `spec` and `params` are the recipe's; they rebuild a dense head and say which types an estimator may hold.
    Raises AutotlError where the file is missing, damaged, of another design, or holds types that aren't trusted.
    """
    path = folder / (DENSE if spec.type == "dense" else ESTIMATOR)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AutotlError(f"{path} isn't there: the model is incomplete. Copy its whole folder again.") from None
    if spec.type == "dense":
        return _dense(content, spec, params, num_features, num_classes, path)
    head = _estimator(content, spec, path)
    wanted = getattr(head, "n_features_in_", num_features)
    if wanted != num_features or not (hasattr(head, "predict_proba") or hasattr(head, "decision_function")):
        raise AutotlError(f"{path} doesn't hold a classifier of {num_features:,} features, which its model describes.")
    return head


def _dense(content: bytes, spec: Head, params: Params, num_features: int, num_classes: int, path: Path) -> Any:
    import safetensors
    import safetensors.torch

    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    # what the page claims is built only where the file could hold it: a width of a billion is a head of terabytes
    largest = max([SMALL, *(side for tensor in tensors.values() for side in tensor.shape)])
    claims = {"num_features": num_features, "num_classes": num_classes, **params}
    for name, value in claims.items():
        if isinstance(value, int) and value > largest:
            raise AutotlError(f"{path} doesn't hold the head that its model describes: {name} is said to be {value:,}.")
    try:
        head = spec.build(params, num_features, num_classes, seed=0)
        head.load_state_dict(tensors)
    except (TypeError, KeyError, ValueError) as error:
        raise AutotlError(f"{path} doesn't hold the head that its model describes: {error!r}") from error
    except RuntimeError as error:
        raise AutotlError(f"{path} doesn't hold the head that its model describes: {error}") from error
    return head.eval()


def _estimator(content: bytes, spec: Head, path: Path) -> Any:
    """skops builds only types that it trusts or is told to, and finds out which there are without building any."""
    import io
    from zipfile import ZipFile

    import skops.io

    try:
        with ZipFile(io.BytesIO(content)) as parts:
            claimed = sum(part.file_size for part in parts.infolist())
        if claimed > len(content):  # skops doesn't compress
            raise ValueError(f"its parts claim {claimed:,} bytes, more than its own {len(content):,}")
        refused = sorted(set(skops.io.get_untrusted_types(data=content)) - set(spec.trusted))
        if refused:
            raise AutotlError(
                f"{path} holds types that head {spec.name!r} doesn't trust, so it isn't loaded: {', '.join(refused)}. "
                "If they are your own head's, list them in its `trusted`."
            )
        return skops.io.loads(content, trusted=list(spec.trusted))
    except AutotlError:
        raise
    except Exception as error:  # a file that somebody made up raises nearly every kind
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AutotlError:
    return AutotlError(f"{path} is damaged ({type(error).__name__}: {error}). Copy the model's folder again.")
