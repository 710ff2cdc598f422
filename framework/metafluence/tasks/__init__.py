"""Tasks and the weights of their items: where tasks come from, how they are drawn and corrupted.

Every item is a weight, or a set of weights: a task, a support or query instance, an image or a class of the data set.
Knows nothing of models.
"""

from metafluence.tasks.adapters import from_easyfsl, from_learn2learn, from_pairs, from_torchmeta
from metafluence.tasks.corruption import Corruption, corrupt
from metafluence.tasks.datasets import Dataset, LabelledDataset, Source, data_root
from metafluence.tasks.download import fetch_sources
from metafluence.tasks.episodes import SETS, Episodes, Instances, Labelled, Split, generators, sample
from metafluence.tasks.fs_mol import from_fs_mol
from metafluence.tasks.item_names import item_names
from metafluence.tasks.items import check_level, check_removals, count_of
from metafluence.tasks.joining import join_tasks
from metafluence.tasks.levels import ITEM_NAMES, LEVELS, WEIGHED, Level, Removal, weighed
from metafluence.tasks.origins import Origins, known_origins
from metafluence.tasks.padding import check_whole, pad_tasks, widened
from metafluence.tasks.stored_tasks import open_tasks, save_tasks
from metafluence.tasks.task_set import Batch, Task, TaskSet
from metafluence.tasks.weights import Weights
