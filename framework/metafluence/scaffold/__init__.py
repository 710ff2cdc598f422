"""New plugins: the files with which a component of one's own begins."""

from metafluence.scaffold.plugin import new_plugin
