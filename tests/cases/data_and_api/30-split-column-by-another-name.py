"""A manifest whose column is called subset, fold, set_name, partition or dataset (values train/val/test) in the place of split:
`subset` and `partition` are ignored without a word, and the user's test images are trained on. A column `patient` gets the
advice "Did you mean 'split'?", where `group` is what it takes. Right: a warning for a column that holds train/test words."""
from _common import *
from autotl.data.loading import load_dataset
from autotl.data.sources import ManifestSource
from autotl.errors import DataError

work()
paths, labels = photos("p", ["red", "green"], 6)
bad = []
for column in ("subset", "partition", "fold", "dataset"):
    Path("l.csv").write_text(f"path,label,{column}\n" + "".join(f"{p},{l},{['train', 'val', 'test'][i % 3]}\n" for i, (p, l) in enumerate(zip(paths, labels))))
    try:
        dataset = load_dataset("l.csv", {"manifest": ManifestSource()})
    except DataError as error:
        print(f"{column}: refused, {error}")
        continue
    if "test" in dataset.subsets or any(column in text for text in dataset.warnings):
        print(f"{column}: parts {set(dataset.subsets)}, warnings {dataset.warnings}")
    else:
        bad.append(f"{column}: ignored without a word")
if bad:
    wrong("\n".join(bad))
right()
