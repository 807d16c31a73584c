"""Training/ and Testing/ with class folders inside (Kaggle's brain MRI, Fruits-360's Training/ and Test/, Intel's
seg_train/ and seg_test/): autotl takes the parts for the classes and says nothing. Right: the classes are red and
green, or an error or a warning that the folders look like parts."""
from _common import *

work()
bad = []
for train, test in (("Training", "Testing"), ("Training", "Test"), ("seg_train", "seg_test"), ("training_set", "test_set")):
    root = Path(f"{train}-{test}")
    photos(root / train, ["red", "green"], 8)
    photos(root / test, ["red", "green"], 4, first=100)
    from autotl.data.loading import load_dataset
    from autotl.data.sources import FolderSource
    from autotl.errors import DataError

    try:
        dataset = load_dataset(str(root), {"folder": FolderSource()})
    except DataError as error:
        print(f"{root}: refused, {error}")
        continue
    said = " ".join(dataset.warnings) + " ".join(f.text for f in dataset.findings)
    if set(dataset.classes) == {train, test} and train not in said:
        bad.append(f"{root}: classes {dataset.classes}, warnings {dataset.warnings}")
    else:
        print(f"{root}: classes {dataset.classes}, said: {said}")
if bad:
    wrong("the parts became the classes, without a word:\n" + "\n".join(bad))
right()
