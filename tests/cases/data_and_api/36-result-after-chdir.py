"""`found = autotl.search("photos")`, then os.chdir(…) (notebooks do), then found.model(): "studies/photos/model is no model
folder". SearchResult keeps a path relative to where the search was started. Quick: the result is made by hand."""
from _common import *
import autotl.api as api
from autotl.config import study_config

folder = work()
photos("photos", ["red", "green"], 6)
import autotl.coordinator.run as run

shutil.copytree(model(), "studies/photos/model")
run.run_search = lambda config, progress, **options: {"study": "photos"}
found = api.search("photos", **QUICK)
os.chdir("/")
try:
    _ = found.model
except Exception as error:
    wrong(f"{type(error).__name__}: {error}")
right(str(found.model_path))
