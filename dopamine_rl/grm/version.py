"""Model versions: a hash of a model's content, equal for equal models in memory and on disk, on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dopamine_rl.errors import CheckpointError

_JSON_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json", "template.json")
_VOLATILE = frozenset(
    {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "processor_class"}
)
"""Keys that saving adds or changes without changing the model."""

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def content_version(weights: Mapping[str, torch.Tensor], *documents: Any) -> str:
    """12 hexadecimal digits from weights (sorted by name) and JSON documents (in the order of a model folder)."""
    return _version({name: lambda name=name: weights[name] for name in weights}, documents)  # type: ignore[misc]


def folder_version(folder: Path) -> str:
    """`content_version` of a folder. Raises CheckpointError naming the file that cannot be read."""
    documents = folder_documents(folder)
    path = folder / "model.safetensors"
    try:
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise OSError("no weights")
        readers: dict[str, Callable[[], torch.Tensor]] = {}
        for path in shards:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 (safe_open is not a mapping)
                    readers[name] = lambda path=path, name=name: _read(path, name)  # type: ignore[misc]
        return _version(readers, documents)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the whole model folder again") from error


def folder_documents(folder: Path) -> tuple[Any, ...]:
    """The JSON documents that belong to a model's content: configuration, tokenizer, image processor, template.

    Raises: CheckpointError naming the file that cannot be read.
    """
    documents = []
    for name in _JSON_FILES:
        try:
            documents.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder / name} cannot be read ({error}): copy the whole model folder again"
            ) from error
    return tuple(documents)


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as shard:
        return shard.get_tensor(name)


def _version(readers: Mapping[str, Callable[[], torch.Tensor]], documents: Any) -> str:
    digest = hashlib.sha256()
    named = {_stored_name(name): read for name, read in readers.items()}
    if _EMBEDDING in named and _OUTPUT in named and torch.equal(named[_EMBEDDING](), named[_OUTPUT]()):
        del named[_OUTPUT]  # Tied weights: one tensor with two names in memory; a file may have either or both.
    for name in sorted(named):
        weight = named[name]().detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().tobytes())
    for document in documents:
        digest.update(json.dumps(_stable(document), sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _stored_name(name: str) -> str:
    """The name a checkpoint file uses; in memory transformers 5 nests the two towers one level deeper."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def _stable(value: Any) -> Any:
    """The document without volatile keys, at every depth."""
    if isinstance(value, dict):
        return {key: _stable(inner) for key, inner in value.items() if key not in _VOLATILE and inner is not None}
    if isinstance(value, list | tuple):
        return [_stable(inner) for inner in value]
    return value
