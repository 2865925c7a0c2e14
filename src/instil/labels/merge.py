"""Parts of one store, labelled by several processes or machines, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instil.core import publish
from instil.core.errors import LabelError
from instil.labels.store import (
    EXAMPLES_A_SHARD,
    MANIFEST_NAME,
    StoreManifest,
    damage_of,
    read_store_manifest,
    shard_name,
)
from instil.labels.writer import measured


def merge_stores(parts: Sequence[Path], folder: Path) -> StoreManifest:
    """The store of all shards of `parts`, written to the new `folder`; the parts stay as they are.

    Raises `LabelError` where `folder` holds anything, parts were made from different things, one is damaged, or a shard
    is missing.
    """
    if (folder / MANIFEST_NAME).exists():
        raise LabelError(f"{folder}: there is a store already; name a new folder")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise LabelError(f"{folder}: holds other things than a store, which stay; name a new folder")
    manifests = [read_store_manifest(part) for part in parts]
    first = manifests[0]
    for part, manifest in zip(parts, manifests, strict=True):
        for what in ("details", "made_from", "codec", "whole"):
            if getattr(manifest, what) != getattr(first, what):
                raise LabelError(
                    f"{part}: {what} is {getattr(manifest, what)}, but {parts[0]} has {getattr(first, what)};"
                    " merge only parts of one labelling"
                )
    found = {entry.file: (part, entry) for part, each in zip(parts, manifests, strict=True) for entry in each.shards}
    wanted = [shard_name(number) for number in range(-(-first.examples // EXAMPLES_A_SHARD))]
    if missing := sorted(set(wanted) - set(found)):
        raise LabelError(
            f"{', '.join(missing)} of {len(wanted)} shards in none of the parts; label the part that makes it with"
            " instil label --part, then merge again"
        )
    with publish.publish_folder(folder) as aside:
        for part, entry in found.values():
            if damage := damage_of(part, entry):
                raise LabelError(f"{damage}; make that part again")
            publish.link(part / entry.file, aside / entry.file)
        entries = tuple(found[name][1] for name in sorted(found))
        whole = first.model_copy(
            update={"part": None, "shards": entries, "measured": measured(aside, first.codec, entries)}
        )
        whole.write(aside)
    return whole
