"""What work runs on and is kept in: devices, memory, executors, files, fingerprints, versions.

Knows tensors and files, but nothing of tasks or learning.
"""

from metafluence.runtime.devices import CPU, device_name, find_device, repeatable, settle
from metafluence.runtime.executors import (
    NAMED,
    Executor,
    Item,
    Parcel,
    RemoteExecutor,
    Result,
    count,
    divided_threads,
    fatal,
    optional_package,
    warn,
)
from metafluence.runtime.fingerprints import component_fingerprint, hash_parts, hash_tensor
from metafluence.runtime.memory import (
    ACTIVATION_BYTES,
    COLUMN_BYTES,
    GRADIENT_GRAPH_BYTES,
    KEPT_GRAPH_BYTES,
    ROW_BYTES,
    TRACE_BYTES,
    count_within,
    graph_bytes,
    join_rows,
)
from metafluence.runtime.notebook_view import notebook_view
from metafluence.runtime.provenance import versions
from metafluence.runtime.ranks import Ranks, TaskShare, join_ranks, joined
from metafluence.runtime.source_code import file_fingerprint
from metafluence.runtime.state_dicts import STATE_DICT_SUFFIXES, read_state_dict
from metafluence.runtime.storage import (
    Shelf,
    check_identity,
    digest_of,
    folder_of,
    load_facts,
    load_tensors,
    save_facts,
    save_tensors,
    write_atomically,
)
