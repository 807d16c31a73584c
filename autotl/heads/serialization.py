"""Save and load a trained head: safetensors for a torch module, skops for an estimator, no pickle."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotl.atomic_io import write_atomically
from autotl.backbones.limits import limited_build, tensor_shapes
from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.heads.inference import reference_answers, same_answers
from autotl.heads.verification import check_estimator
from autotl.recipe import Params

__all__ = ["load_head", "save_head"]

MAX_FEATURES = 10_000_000
"""Features of a head. What a head does before its first tensor depends on this number alone."""
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


def load_head(
    spec: Head,
    params: Params,
    num_features: int,
    num_classes: int,
    folder: Path,
    answers: Sequence[Sequence[float]] | None = None,
) -> Any:
    """Load what `save_head` wrote: a dense head on the CPU in eval mode, or a fitted estimator.

    Args:
        spec: the recipe's head. It rebuilds a dense head, and lists the types that an estimator may contain.
        params: the recipe's `head_params`.
        answers: the saved head's `reference_answers`, which the loaded head has to give again.

    Raises:
        AutotlError: the file is missing, damaged, of another architecture, contains untrusted types, or the head gives
            other answers.
    """
    path = folder / (DENSE if spec.type == "dense" else ESTIMATOR)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AutotlError(f"{path} is missing: the model is incomplete. Copy its whole folder again.") from None
    if num_features > MAX_FEATURES:
        raise _mismatch(path, f"num_features is {num_features:,}.")
    load = _dense if spec.type == "dense" else _estimator
    head = load(content, spec, params, num_features, num_classes, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NaN, which the comparison finds
            given = reference_answers(head, num_features, num_classes)
    except Exception as error:  # arrays that don't fit together raise nearly any exception
        raise _mismatch(path, f"it can't predict: {type(error).__name__}: {error}.") from error
    if not np.isfinite(given).all():
        raise _mismatch(path, "it predicts numbers that aren't finite.")
    if answers is not None and not same_answers(given, np.array(answers, np.float64)):
        raise _mismatch(path, "it gives other answers than when it was saved.")
    return head


def _dense(content: bytes, spec: Head, params: Params, num_features: int, num_classes: int, path: Path) -> Any:
    import safetensors
    import safetensors.torch

    def build() -> Any:
        return spec.build(params, num_features, num_classes, seed=0)

    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    except Exception as error:  # a forged header can state types and shapes that torch doesn't have
        raise _damaged(path, error) from error
    try:
        # a forged manifest could describe layers of gigabytes: their shapes are computed without storage first
        with limited_build(len(tensors), sum(tensor.numel() for tensor in tensors.values())):
            shapes = tensor_shapes(build)
            if shapes is not None and shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
                raise ValueError(_first_difference(shapes, tensors))
            head = build()
        head.load_state_dict(tensors)
    except Exception as error:  # a head's own code meets parameters that it never suggested
        raise _mismatch(path, f"{type(error).__name__}: {error}.") from error
    return head.eval()


def _first_difference(shapes: dict[str, tuple[int, ...]], tensors: dict[str, Any]) -> str:
    names = sorted(shapes.keys() ^ tensors.keys())
    if names:
        place = "the file" if names[0] in shapes else "the head"
        return f"{place} has no {names[0]!r:.100}"
    name = next(name for name in shapes if shapes[name] != tuple(tensors[name].shape))
    return f"{name!r:.100} has the shape {tuple(tensors[name].shape)} and should have {shapes[name]}"


def _estimator(content: bytes, spec: Head, params: Params, num_features: int, num_classes: int, path: Path) -> Any:
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other scikit-learn versions: the reference answers are compared
            estimator = skops.io.loads(content, trusted=list(spec.trusted))
    except AutotlError:
        raise
    except Exception as error:  # a forged file can make skops raise nearly any exception
        raise _damaged(path, error) from error
    if not (hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")):
        raise _mismatch(path, "it is not a classifier.")
    try:
        check_estimator(estimator, spec.build(params, num_features, num_classes, seed=0), num_features, num_classes)
    except Exception as error:  # missing attributes and arrays of wrong types raise many types
        raise _mismatch(path, f"{error}.") from error
    return estimator


def _mismatch(path: Path, reason: str) -> AutotlError:
    return AutotlError(f"{path} is not the head that its model describes: {reason} Copy the model's folder again.")


def _damaged(path: Path, error: Exception) -> AutotlError:
    return AutotlError(f"{path} is damaged ({type(error).__name__}: {error}). Copy the model's folder again.")
