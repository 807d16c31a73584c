"""`ImageClassifier.fit(paths, labels)` copies every image file into the temporary folder ("linked to, by copies"): 100 GB of
photos need 100 GB in the temporary folder, often a disk of memory. Right: files that are on disk are not copied."""
from _common import *
import autotl

folder = work()
paths, labels = photos("p", ["red", "green", "blue"], 4)
for path in paths:  # 2 MB each
    with open(path, "ab") as file:
        file.write(os.urandom(2_000_000))
(folder / "tmp").mkdir()
base = model()
import tempfile as t

t.tempdir = str(folder / "tmp")
os.environ["TMPDIR"] = str(folder / "tmp")
import autotl.classifier as classifier

seen = {}


def search(data, **config):
    seen["bytes"] = sum(p.lstat().st_size for p in (folder / "tmp").rglob("*") if p.is_file() and not p.is_symlink())
    raise KeyError("enough")


classifier.search = search
try:
    autotl.ImageClassifier(**QUICK).fit(paths, labels)
except KeyError:
    pass
if "bytes" not in seen:
    print("the search is started in another way now: look again")
    sys.exit(2)
if seen["bytes"] > 5_000_000:
    wrong(f"{seen['bytes']:,} bytes in the temporary folder for 12 files that are on disk")
right(f"{seen['bytes']:,} bytes")
