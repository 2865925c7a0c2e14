"""OpenVINO's own converter, over one forward pass of the whole text: no cache of keys and values travels with it.

The masks of a decoder are made here: those that transformers makes are beyond what the converter can trace.

Shape letters: B batch, S time of the source, T time of the text, V vocabulary.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor, nn

from instil.export.formats.converting import converting, saving
from instil.export.student import Student

MODEL_NAME = "model.xml"


def write(student: Student, precision: str, folder: Path) -> None:
    """Write `model.xml` and `model.bin`. Raises `ModelError` for an architecture that cannot be traced."""
    model = copy.deepcopy(student.loaded.model).float()
    model.config._attn_implementation = "eager"
    whole: nn.Module = _EncoderDecoder(model) if model.config.is_encoder_decoder else _Decoder(model)
    ids_BS, ids_BT = torch.tensor([[1, 2, 3, 4, 5, 6, 7]]), torch.tensor([[1, 2, 3, 4, 5]])
    with converting(model, "OpenVINO"), warnings.catch_warnings():
        # What is traced is proved afterwards, on texts of other lengths.
        warnings.simplefilter("ignore")
        made = openvino.convert_model(whole, example_input=(ids_BS, ids_BT)[: 1 + model.config.is_encoder_decoder])
    with saving(folder, student.generator.bytes):
        openvino.save_model(made, folder / MODEL_NAME, compress_to_fp16=precision == "fp16")


class _EncoderDecoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BS: Tensor, ids_BT: Tensor) -> Tensor:
        return self.model(input_ids=ids_BS, decoder_input_ids=ids_BT, use_cache=False).logits


class _Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor) -> Tensor:
        config = self.model.config
        place_T = torch.arange(ids_BT.shape[1])
        back_TT = place_T[:, None] - place_T[None]
        mask: Any = _mask(back_TT >= 0)
        window = getattr(config, "sliding_window", None)
        if window and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            mask = {"full_attention": mask, "sliding_attention": _mask((back_TT >= 0) & (back_TT < window))}
        elif window:
            mask = _mask((back_TT >= 0) & (back_TT < window))
        return self.model(input_ids=ids_BT, attention_mask=mask, position_ids=place_T[None], use_cache=False).logits


def _mask(seen_TT: Tensor) -> Tensor:
    return torch.where(seen_TT, 0.0, torch.finfo(torch.float32).min)[None, None]
