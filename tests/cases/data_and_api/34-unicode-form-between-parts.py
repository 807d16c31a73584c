"""train/café written on Linux (NFC) and test/café unpacked on a Mac (NFD): "d has test images of 'café', a class that isn't among
those to train on. Did you mean 'café'?" The two look the same. (Within one part a search says "differ by … Unicode form".)
Right: taken for one, or an error that says that only the Unicode form, or a space, differs."""
from _common import *
import unicodedata
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource
from autotl.errors import DataError

work()
photos("d/train", [unicodedata.normalize("NFC", "café"), "tea"], 5)
photos("d/test", [unicodedata.normalize("NFD", "café"), "tea"], 3, first=50)
try:
    dataset = load_dataset("d", {"folder": FolderSource()})
except DataError as error:
    text = str(error)
    if "Unicode" in text or "\\u" in text or "form" in text.lower():
        right(text)
    wrong(text)
right(f"classes {dataset.classes}")
