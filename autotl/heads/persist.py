"""A trained head in a folder: safetensors for a torch module, skops for an estimator. No pickle."""

from pathlib import Path
from typing import Any

from autotl.errors import AutotlError
from autotl.files import write_atomically
from autotl.heads.head import Head
from autotl.recipe import Params

__all__ = ["load_head", "save_head"]

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


def load_head(spec: Head, params: Params, n_features: int, n_classes: int, folder: Path) -> Any:
    """What `save_head` wrote: a dense head on the CPU in eval mode, or a fitted estimator.

    `spec` and `params` are the recipe's; they rebuild a dense head and say which types an estimator may hold.
    Raises AutotlError where the file is missing, damaged, of another design, or holds types that aren't trusted.
    """
    path = folder / (DENSE if spec.kind == "dense" else ESTIMATOR)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AutotlError(f"{path} isn't there: the model is incomplete. Copy its whole folder again.") from None
    if spec.kind == "dense":
        return _dense(content, spec.build(params, n_features, n_classes, seed=0), path)
    return _estimator(content, spec, path)


def _dense(content: bytes, head: Any, path: Path) -> Any:
    import safetensors
    import safetensors.torch

    try:
        head.load_state_dict(safetensors.torch.load(content))
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    except RuntimeError as error:
        raise AutotlError(f"{path} doesn't hold the head that its model describes: {error}") from error
    return head.eval()


def _estimator(content: bytes, spec: Head, path: Path) -> Any:
    """skops builds only types that it trusts or is told to, and finds out which there are without building any."""
    from zipfile import BadZipFile

    import skops.io

    try:
        refused = sorted(set(skops.io.get_untrusted_types(data=content)) - set(spec.trusted))
        if refused:
            raise AutotlError(
                f"{path} holds types that head {spec.name!r} doesn't trust, so it isn't loaded: {', '.join(refused)}. "
                "If they are your own head's, list them in its `trusted`."
            )
        return skops.io.loads(content, trusted=list(spec.trusted))
    except (BadZipFile, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AutotlError:
    return AutotlError(f"{path} is damaged ({error}). Copy the model's folder again.")
