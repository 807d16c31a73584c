"""A model folder from a stranger names the backbone `hf:/private/folder` (a plugin's family): loading and predicting opens
files outside the model's folder. `local-dir:` of the same kind is sent to the model's own folder."""

from common import *
from models import seal, small_model

small_model(HERE / "m")
private = HERE / "private"
private.mkdir()
(private / "config.json").write_text(
    json.dumps(
        {
            "model_type": "vit",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 224,
            "patch_size": 16,
            "architectures": ["ViTModel"],
        }
    )
)
(private / "preprocessor_config.json").write_text(
    json.dumps(
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 224, "width": 224},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "do_normalize": True,
            "do_resize": True,
            "do_rescale": True,
        }
    )
)
edit(HERE / "m" / "model.json", "backbones.0.name", f"hf:{private}")
seal(HERE / "m")
photos(HERE / "p", {"a": 1, "b": 1})
opened = []


def watch(event, details):
    if (
        event == "open"
        and isinstance(details[0], str)
        and os.path.realpath(details[0]).startswith(os.path.realpath(private))
    ):
        opened.append(details[0])


sys.addaudithook(watch)
import autotl

try:
    autotl.load(HERE / "m").predict_proba(sorted((HERE / "p").glob("*/*")))
    how = "it predicts"
except autotl.errors.AutotlError if hasattr(autotl, "errors") else Exception as error:
    how = f"{type(error).__name__}: {str(error)[:100]}"
verdict(not opened, f"opened outside of the model's folder: {sorted({Path(p).name for p in opened})}; {how}")
