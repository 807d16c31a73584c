"""Two thousand mutations of a model's files: each answers the same, or is refused in words."""

import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fire import Outcome, by_fire
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
from forging import seal

from autotl.data.digests import DIGEST_BYTES
from autotl.model.card import add_results

N = 2000
PER_PROCESS = 100
SECONDS = 900
GROWTH = 1 << 30
HEADS = (
    "linear",
    "mlp",
    "logistic_regression",
    "linear_svm",
    "rbf_svm",
    "knn",
    "lda",
    "random_forest",
    "extra_trees",
    "hist_gradient_boosting",
    "ridge",
    "kernel_ridge",
    "lightgbm",
    "xgboost",
)
NUMBERS = (0, 1, -1, 2, 7, 10**3, 10**6, 10**9, 10**15, 2**31, 2**63, -(2**31), 0.5, -0.5, 1e-9, 1e30, 1e308)
TEXTS = (
    "",
    "x",
    "../..",
    "/etc/passwd",
    "local-dir:/etc",
    "hf:/etc",
    "hf:evil/net",
    "hf-hub:evil/net",
    "resnet18@/etc/x",
)
TEXTS += ("vit_giant_patch14_224", "os.system", "__class__", "\x1b[2J", "none", "last", "stages+max", "a" * 5000)


def valid_model(folder: Path) -> None:
    """A model of one member of each head, one of them with fine-tuned blocks, on a network from a folder."""
    import timm
    import torch

    from autotl.backbones.graph_split import FeatureLevels, GraphSplit
    from autotl.backbones.timm import TimmBackbone
    from autotl.model.doubt import Doubt, fit_familiar
    from autotl.model.image_model import ImageModel
    from autotl.model.member import Member
    from autotl.recipe import Recipe
    from autotl.registry import load_registry
    from autotl.strategies.base import Fitted

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(network, folder / "network", model_config={"num_classes": 3})
    backbone = TimmBackbone(f"local-dir:{folder / 'network'}")
    module = backbone.build()
    layout = FeatureLevels(GraphSplit(module, backbone.blocks(module))).layout(backbone.preprocessing.size)
    width, registry, rng = (
        layout.output,
        load_registry(without=["engines.openvino"]),
        np.random.default_rng(0),
    )
    features, labels = rng.standard_normal((60, width)).astype(np.float32), np.arange(60) % 3
    members = []
    for trial, name in enumerate(HEADS):
        head = registry.head(name)
        params = {**head.defaults(), **({"n_estimators": 10} if "n_estimators" in head.defaults() else {})}
        fitted = head.build(params, width, 3, 0)
        if head.type == "estimator":
            fitted.fit(features, labels)
        tuned = {k: v for k, v in module.state_dict().items() if k.startswith("stages.3")} if name == "mlp" else None
        recipe = Recipe(backbone.name, "fine_tuning" if tuned else "fast_extraction", name, 1, {}, params)
        members.append(Member(recipe, Fitted("last", fitted, tuned), backbone.digest, 3, trial=trial))
    held_out = rng.dirichlet(np.ones(3), len(labels))
    doubt = Doubt.of(held_out, labels, fit_familiar(features, np.arange(len(labels))), backbone.digest)
    digests = frozenset(rng.bytes(DIGEST_BYTES).hex() for _ in labels)
    model = ImageModel(("ants", "bees", "wasps"), members, {backbone.digest: backbone}, registry=registry)
    model.doubt, model.trained_on = doubt, digests
    model.save(folder / "model")
    about = {"test": {"accuracy": 0.9, "n": 40}, "baseline": {"accuracy": 0.4}, "intervals": {}, "data": "insects"}
    add_results(folder / "model", {**about, "images": {"train": 60, "test": 40}, "split": {"train": "0" * 16}})


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value of a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, one in inner for place in places(one, (*way, key)))]


def mutate_json(content: Any, rng: np.random.Generator) -> Any:
    """Replace, remove, repeat or nest a value."""
    ways = [way for way in places(content) if way]
    if not ways:
        return content
    way = ways[rng.integers(len(ways))]
    parent = content
    for key in way[:-1]:
        parent = parent[key]
    key, kind = way[-1], int(rng.integers(7))
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = NUMBERS[rng.integers(len(NUMBERS))]
    elif kind == 2:
        parent[key] = TEXTS[rng.integers(len(TEXTS))]
    elif kind == 3:
        parent[key] = (None, True, [], {}, [[]] * 3)[rng.integers(5)]
    elif kind == 4 and isinstance(parent[key], int | float):
        parent[key] = parent[key] * float(rng.choice([-1, 0.5, 2, 1000])) + int(rng.integers(-1, 2))
        parent[key] = int(parent[key]) if rng.random() < 0.7 and abs(parent[key]) < 1e300 else parent[key]
    elif kind == 5 and isinstance(parent, list):
        parent.extend([parent[key]] * int(rng.integers(1, 2000)))
    else:
        other = ways[rng.integers(len(ways))]
        source = content
        for step in other:
            source = source[step]
        parent[key] = json.loads(json.dumps(source))
    return content


def mutate_page(file: Path, rng: np.random.Generator) -> None:
    content = json.loads(file.read_text())
    for _ in range(int(rng.integers(1, 3))):
        content = mutate_json(content, rng)
    file.write_text(json.dumps(content))


def mutate_safetensors(file: Path, rng: np.random.Generator) -> None:
    """Mutate the header as JSON, as bytes, or its length."""
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, rest, kind = whole[8 : 8 + length], whole[8 + length :], int(rng.integers(4))
    if kind < 2:
        header = json.dumps(mutate_json(json.loads(header), rng)).encode()
        length = len(header)
    elif kind == 2:
        changed = bytearray(header)
        for _ in range(int(rng.integers(1, 8))):
            changed[rng.integers(len(changed))] = int(rng.integers(256))
        header = bytes(changed)
    else:
        length = int(NUMBERS[rng.integers(12)]) & (2**64 - 1)
    file.write_bytes(struct.pack("<Q", length) + header + rest)


def mutate_skops(file: Path, rng: np.random.Generator) -> None:
    """Mutate the schema, the header or the numbers of an array, or the bytes of a booster."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    arrays = sorted(name for name in parts if name != "schema.json")
    if not arrays or rng.random() < 0.4:
        parts["schema.json"] = json.dumps(mutate_json(json.loads(parts["schema.json"]), rng)).encode()
    else:
        name = arrays[rng.integers(len(arrays))]
        changed = bytearray(parts[name])
        kind = int(rng.integers(3))
        if kind == 0 and changed.startswith(b"\x93NUMPY"):
            array = np.load(io.BytesIO(parts[name]), allow_pickle=False)
            array = array if array.size else np.zeros(1)
            flat = np.frombuffer(array.tobytes(), np.uint8).copy()
            for _ in range(int(rng.integers(1, 20))):
                flat[rng.integers(len(flat))] = int(rng.integers(256))
            buffer = io.BytesIO()
            np.save(buffer, np.frombuffer(flat.tobytes(), array.dtype).reshape(array.shape))
            changed = bytearray(buffer.getvalue())
        else:
            for _ in range(int(rng.integers(1, 6))):
                place = int(rng.integers(min(len(changed), 128) if kind == 1 else len(changed)))
                changed[place] = int(rng.choice([0, 255, 48, 57, 45, int(rng.integers(256))]))
        parts[name] = bytes(changed)
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in parts.items():
            packed.writestr(name, content)


def mutate_tensors(file: Path, rng: np.random.Generator) -> None:
    """Mutate the header, or numbers of the arrays, half of them to what no probability or distance is."""
    if rng.random() < 0.5:
        mutate_safetensors(file, rng)
        return
    content = bytearray(file.read_bytes())
    first = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(int(rng.integers(1, 6))):
        place = first + 4 * int(rng.integers((len(content) - first) // 4))
        odd = struct.pack("<f", rng.choice([np.nan, np.inf, -np.inf, -1, 2, 1e38, 0]))
        content[place : place + 4] = odd if rng.random() < 0.5 else rng.bytes(4)
    file.write_bytes(content)


def mutate_bytes(file: Path, rng: np.random.Generator) -> None:
    """Overwrite, cut or lengthen; or put something else in the file's place."""
    content, kind = bytearray(file.read_bytes()), int(rng.integers(6))
    if kind == 0:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del content[rng.integers(len(content)) :]
    elif kind == 2:
        content += rng.bytes(int(rng.integers(1, 10_000)))
    elif kind == 3:
        content = bytearray(TEXTS[rng.integers(len(TEXTS))].encode())
    file.unlink()
    if kind == 4:
        file.mkdir()
    elif kind == 5:
        file.symlink_to("/etc/passwd")
    else:
        file.write_bytes(content)


KINDS = {
    "page": (mutate_page, 0.36),
    "skops": (mutate_skops, 0.29),
    "safetensors": (mutate_safetensors, 0.15),
    "doubt": (mutate_tensors, 0.1),
    "text": (mutate_bytes, 0.1),
}
"""How each kind of file is mutated, and how often."""


def mutate(model: Path, rng: np.random.Generator) -> str:
    """Mutate one file of the model; returns what was mutated."""
    pages = [*model.glob("members/*/member.json"), *model.glob("backbones/*/config.json"), *[model / "model.json"] * 8]
    files = {
        "page": sorted(pages),
        "skops": sorted(model.glob("members/*/head.skops")),
        "safetensors": sorted([*model.glob("members/*/*.safetensors"), *model.glob("backbones/**/*.safetensors")]),
        "doubt": [model / "doubt.safetensors"],
        "text": [model / "trained_on.digests", model / "README.md"],
    }
    kind = str(rng.choice(list(KINDS), p=[share for _, share in KINDS.values()]))
    file = files[kind][rng.integers(len(files[kind]))]
    KINDS[kind][0](file, rng)
    return f"{kind} {file.relative_to(model)}"


def answers(model: Any, picture: Image.Image) -> tuple[np.ndarray, list[Any]]:
    """The probabilities of a picture [1, 3]; and whatever else depends on the files: decisions, and the digests."""
    decisions = [
        model.decide(picture, abstain_at=risk, unknown_at=0.05, coverage=coverage)[0]
        for risk, coverage in ((0.05, 0.9), (0.4, 0.6))
    ]
    stated = [(d.label, d.answer, d.classes, None if d.likeness is None else round(d.likeness, 6)) for d in decisions]
    return model.predict_proba(picture), [stated, sorted(model.trained_on)]


def is_valid(answer: np.ndarray, stated: list[Any]) -> bool:
    decisions, digests = stated
    sums = answer.ndim == 2 and np.isfinite(answer).all() and abs(answer.sum() - 1) < 1e-6
    likely = all(likeness is None or 0 <= likeness <= 1 for *_, likeness in decisions)
    return bool(sums and likely and all(len(digest) == 2 * DIGEST_BYTES for digest in digests))


def run(sound: Path, first: int) -> None:
    """Print a line of JSON for each of PER_PROCESS mutations. Half of them have digests that fit."""
    import torch

    from autotl.errors import AutotlError
    from autotl.model.image_model import load
    from autotl.registry import load_registry

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    registry = load_registry(without=["engines.openvino"])
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = answers(load(sound, "cpu", registry), picture)
    watched: dict[str, Any] = {"on": False, "events": [], "root": ""}
    libraries = tuple(
        os.path.realpath(p) for p in {*sys.path, sys.prefix, sys.base_prefix, "/proc", "/dev", "/sys"} if p
    )

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if not watched["on"]:
            return
        if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess", "os.system", "os.exec", "os.fork")):
            watched["events"].append(event)
        elif event == "open" and isinstance(details[0], str | bytes):
            path = os.path.realpath(os.fsdecode(details[0]))
            if not path.startswith((watched["root"], *libraries)):
                watched["events"].append(f"open {path}")

    sys.addaudithook(watch)
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = GROWTH + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, first + PER_PROCESS):
        rng = np.random.default_rng(number)
        with tempfile.TemporaryDirectory() as place:
            model = Path(shutil.copytree(sound, Path(place) / "model"))
            what, sealed = mutate(model, rng), bool(number % 2)
            if sealed:
                seal(model)
            print(json.dumps({"number": number, "what": what, "sealed": sealed}), flush=True)  # known if it crashes
            watched.update(on=True, events=[], root=os.path.realpath(place))
            try:
                answer = answers(load(model, "cpu", registry), picture)
                same = answer[0].shape == expected[0].shape and np.allclose(answer[0], expected[0], atol=1e-6)
                how = "same" if same and answer[1] == expected[1] else "other" if is_valid(*answer) else "invalid"
            except AutotlError as error:
                how = "refused" if str(error).isprintable() or "\x1b" not in str(error) else "unprintable"
            except Exception as error:
                how = f"raised {type(error).__name__}: {error}"[:300]
            watched["on"] = False
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline) * 1024
            print(
                json.dumps({"number": number, "how": how, "events": watched["events"][:3], "grown": grown}), flush=True
            )


@by_fire
def mutations_of_a_model(folder: Path) -> Outcome:
    """In processes that each do a hundred, so that a crash costs the rest of them at most and is reported."""
    valid_model(folder)
    environment = {**os.environ, "AUTOTL_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    counts: Counter[str] = Counter()
    bad, grown = [], 0
    for first in range(0, N, PER_PROCESS):
        command = [sys.executable, __file__, str(folder / "model"), str(first)]
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
            )
            ended, printed = process.returncode, process.stdout
            cause = process.stderr.strip()[-200:]
        except subprocess.TimeoutExpired as late:
            ended, printed, cause = -9, (late.stdout or b"").decode(), "timeout"
        begun: dict[int, dict[str, Any]] = {}
        for line in printed.splitlines():
            row = json.loads(line)
            if "what" in row:
                begun[row["number"]] = row
                continue
            told = begun.pop(row["number"])
            grown = max(grown, row["grown"])
            fine = row["how"] in ("same", "refused") or (row["how"] == "other" and told["sealed"])
            counts[row["how"].split(":")[0]] += 1
            if not fine or row["events"]:
                bad.append({**told, **row})
        if ended:
            bad += [{**row, "how": f"exit {ended}: {cause}"} for row in begun.values()] or [
                {"how": cause, "first": first}
            ]
    for row in bad[:40]:
        print(json.dumps(row))
    return Outcome(
        f"{N:,} mutations of a model of {len(HEADS)} heads: {dict(counts)}, {len(bad)} wrong; the largest "
        f"growth was {grown / 2**20:,.0f} MiB",
        "each answers the same or is refused in words (with digests that fit: or is another valid model); no crash, "
        "no growth over 1 GiB, no file opened outside, no socket",
        not bad and sum(counts.values()) == N and grown < GROWTH,
    )


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
