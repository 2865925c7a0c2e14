"""Real models of both families, with random weights, go through the comparison like any other system."""

import tiny
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Kind
from instil.evaluate.baselines import Lead1
from instil.evaluate.compare import evaluate_systems
from instil.models.generation import TransformersGenerator

RECORDS = [Record(str(number), f"package {number} does it. More.", (f"does it {number}",)) for number in range(6)]


def test_real_models_of_both_families_beside_a_baseline() -> None:
    def system(name: str, kind: Kind) -> TransformersGenerator:
        model, tokenizer = tiny.tiny_model(name), tiny.tiny_tokenizer(kind)
        return TransformersGenerator(model, tokenizer, Prompt(), name=name, max_source_tokens=40)

    systems = {
        "teacher": system("t5", "encoder-decoder"),
        "student": system("llama", "decoder-only"),
        "lead1": Lead1(),
    }
    limits = {"max_new_tokens": 4, "batch_size": 4, "latency_items": 3}
    first, second = (evaluate_systems(systems, RECORDS, teacher="teacher", **limits) for _ in range(2))  # type: ignore[arg-type]
    assert [one.rougeL for one in first.systems] == [one.rougeL for one in second.systems]
    for name in ("teacher", "student"):
        found, model = first[name], systems[name]
        assert found.parameters == model.parameters > 0
        assert found.peak_memory_bytes is None or found.peak_memory_bytes >= model.bytes > 0
        assert found.latency_ms_p50
    assert first["student"].speedup is not None
