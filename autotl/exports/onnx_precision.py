"""An ONNX export in fp16 or int8. Only the networks of the graph change: resizing counts in whole numbers of up to 22
bits, and distances of kernel heads are differences of large numbers."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["quantize", "store_in_fp16"]

NETWORK = re.compile(r"networks\.\d+\.network:")
"""In the scope of each node of a network that PyTorch's exporter writes; see `autotl.exports.graph`."""
IN_INT8 = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Clip", "Relu", "Add", "MaxPool")
"""Operations that run in int8. A clip must be one of them, or the convolution before it stays in fp32."""
MIN_WEIGHTS = 256
"""Numbers from which a weight is worth a conversion."""


def store_in_fp16(exact: Path, file: Path) -> None:
    """Write a copy whose networks keep their weights in fp16 and compute in fp32, as before: half the size, and on a
    CPU, which has no fp16 kernels for most operations, the same speed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(exact)
    weights = {name for node in _network_nodes(model) for name in node.input}
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name not in weights or tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        largest = np.finfo(np.float16).max
        if values.size < MIN_WEIGHTS or np.abs(values).max() > largest:
            continue
        stored = f"{tensor.name}_fp16"
        casts.append(helper.make_node("Cast", [stored], [tensor.name], f"{tensor.name}_cast", to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)


def quantize(exact: Path, file: Path, images: Sequence[np.ndarray]) -> None:
    """Write a copy whose networks compute in int8: weights with a scale for each channel, activations with the range
    that they have on an image, averaged over the images, each uint8 [height, width, 3]: the range over all of them
    would be that of its outliers."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.rest, None)
            return None if image is None else {"images": image[None]}

    quantize_static(
        exact,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # 7 bits for a weight: on processors without VNNI the sums of two 8-bit products overflow
        reduce_range=True,
        nodes_to_quantize=[node.name for node in _network_nodes(onnx.load(exact)) if node.op_type in IN_INT8],
        extra_options={"CalibMovingAverage": True},
    )


def _network_nodes(model: Any) -> list[Any]:
    return [
        node
        for node in model.graph.node
        if any(entry.key == "namespace" and NETWORK.search(entry.value) for entry in node.metadata_props)
    ]
