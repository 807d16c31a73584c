"""The config.json of a network in a model's folder (`local-dir:`), written by a stranger: values that make no sense end in
tracebacks or fill the memory, where every other page is refused in words."""

from common import *
from models import seal, small_model

small_model(HERE / "m", local_dir=True)
photos(HERE / "p", {"a": 1, "b": 1})
pictures = sorted((HERE / "p").glob("*/*"))
config = next((HERE / "m" / "backbones").glob("*/config.json"))
sound = json.loads(config.read_text())
import autotl


def with_values(model_args=None, **cfg):
    page = json.loads(json.dumps(sound))
    page["pretrained_cfg"].update(cfg)
    if model_args is not None:
        page["model_args"] = model_args
    return json.dumps(page)


cases = {
    "crop_pct 1e-7": with_values(crop_pct=1e-7),
    "crop_pct -1": with_values(crop_pct=-1.0),
    "input_size 30000": with_values(input_size=[3, 30000, 30000]),
    "std 0": with_values(std=[0, 0, 0]),
    "interpolation __class__": with_values(interpolation="__class__"),
    "model_args callback": with_values(model_args={"callback": "os.system"}),
}
bad = []
for (name, text), sealed in [(case, sealed) for case in cases.items() for sealed in (False, True)]:
    config.write_text(text)
    if sealed:  # a stranger makes the digests fit
        seal(HERE / "m")
    how, words, megabytes = in_child(lambda: autotl.load(HERE / "m").predict_proba(pictures))
    if how != "refused":
        bad.append(f"{name}: {how} {words[:70]} ({megabytes} MB)")
    print(name, how, words[:100], megabytes, "MB")
verdict(not bad, f"{len(bad)} of {2 * len(cases)} aren't refused in words")
