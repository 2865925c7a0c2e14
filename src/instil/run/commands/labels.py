"""`instil labels`: looking at label stores, proving them whole, and putting parts of one together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instil.run.commands.options import AsJson

if TYPE_CHECKING:
    from instil.labels.store import StoreManifest

labels_app = typer.Typer(
    help="Look at a label store, verify it, put its parts together.", no_args_is_help=True, rich_markup_mode=None
)

StorePath = Annotated[Path, typer.Argument(help="The store, or the label stage's folder that holds it.")]


def _store(path: Path) -> Path:
    inner = path / "store"
    return inner if inner.is_dir() else path


@labels_app.command()
def show(store: StorePath, as_json: AsJson = False) -> None:
    """What is in a store: bytes a token, head sizes, tail, and how well its teacher knows the targets."""
    from instil.core import console
    from instil.labels.store import read_store_manifest

    manifest = read_store_manifest(_store(store))
    if as_json:
        console.emit_json(manifest.model_dump(mode="json") | {"folder": str(_store(store))})
        return
    lines = _lines(manifest)
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in lines.items()))


def _lines(manifest: StoreManifest) -> dict[str, str]:
    codec, measured = manifest.codec, manifest.measured
    least = "at least " if measured.get("unlisted") else ""
    lines = {
        "examples": f"{sum(entry.examples for entry in manifest.shards):,} in {len(manifest.shards)} shards",
        "rows": f"{measured['rows']:,.0f} target tokens",
        "bytes a row": f"{measured['bytes_per_row']:.1f}",
        "temperatures": ", ".join(f"{each:g}" for each in codec.temperatures),
        "vocabulary": f"{codec.vocabulary:,} ids of {codec.id_bits} bits",
        "entries a row": f"{measured['head_entries']:.2f} in the head, {measured['drawn_ids']:.2f} drawn from the tail",
        "mass": f"{measured['head_mass']:.1%} in the head, {1 - measured['head_mass']:.1%} in the tail",
        "teacher on the targets": f"{least}loss {measured['loss']:.3f} nats, perplexity {measured['perplexity']:.2f}",
        "targets": f"{measured['top1_agreement']:.1%} its first choice, {measured['target_in_head']:.1%} in the head",
    }
    if "requests" in measured:
        lines["served"] = (
            f"{measured['requests']:,.0f} requests, {measured['input_tokens']:,.0f} tokens in,"
            f" {measured['output_tokens']:,.0f} out, {measured['usd']:.2f} USD"
        )
    lines |= {f"made from {role}": mark for role, mark in (manifest.made_from | manifest.details).items()}
    return lines | ({"part": manifest.part} if manifest.part else {})


@labels_app.command()
def verify(store: StorePath, as_json: AsJson = False) -> None:
    """Read every shard, and targets that are not gold, and compare them with their checksums; exit 1 for damage."""
    from instil.core import console
    from instil.labels.store import damage_of, read_store_manifest
    from instil.run.stages.label import STORE_NAME
    from instil.run.stages.targets import damage_of_targets

    folder = _store(store)
    manifest = read_store_manifest(folder)
    found = [damage for entry in manifest.shards if (damage := damage_of(folder, entry))]
    whole = f"{len(manifest.shards) - len(found)} of {len(manifest.shards)} shards are whole"
    place = folder.resolve()
    if place.name == STORE_NAME and (damage := damage_of_targets(place.parent)):
        found.append(damage)
    if as_json:
        console.emit_json({"folder": str(folder), "shards": len(manifest.shards), "damaged": found})
    else:
        print("\n".join([*found, whole]))
        if found:
            print("Next: run the instil label command that made it again; it makes only these")
    if found:
        raise typer.Exit(1)


@labels_app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="Where the whole store goes; a new folder.")],
    parts: Annotated[list[Path], typer.Argument(help="The parts: stores made with instil label --part.")],
    as_json: AsJson = False,
) -> None:
    """Put the parts of a store, labelled by several processes or machines, together."""
    from instil.core import console
    from instil.labels.merge import merge_stores

    manifest = merge_stores([_store(part) for part in parts], out / "store")
    examples = sum(entry.examples for entry in manifest.shards)
    following = f"set labels.store to {out} in the recipe, then instil distil"
    if as_json:
        console.emit_json({"folder": str(out), "examples": examples, "next": following})
    else:
        print(f"{out}: {examples:,} examples in {len(manifest.shards)} shards\nNext: {following}")
