import jax
import pytest

from pav_jax import components
from pav_jax.booster.booster import Booster
from pav_jax.config import load
from pav_jax.errors import BadInput
from tests.evolve.test_mixture import RecordingProposer
from tests.tiny.byte_language_model import tiny_language_model


def test_round_prompts_fewer_than_rounds():
    with pytest.raises(BadInput, match="2 rounds need 2 prompts or more, and there are 1") as error:
        components.round_prompts(["a dog"], None, 1, 2)
    assert error.value.field == "prefer.prompts"


@pytest.mark.parametrize(
    "max_prompts, rounds, size",
    [(None, 2, 50), (8, 2, 8), (8, 3, 8), (1000, 2, 50), (None, 3, 33), (None, 1, 100)],
)
def test_round_prompts_disjoint(max_prompts, rounds, size):
    prompts = [f"prompt {i}" for i in range(100)]
    parts = [
        components.round_prompts(prompts, max_prompts, round, rounds)
        for round in range(1, rounds + 1)
    ]
    assert [len(part) for part in parts] == [size] * rounds
    assert sum(parts, []) == prompts[: size * rounds]


def test_starting_booster_by_round(tmp_path):
    for name in ("sft/booster", "round_1/booster"):
        (tmp_path / name).mkdir(parents=True)
    assert components.starting_booster(tmp_path, 1) == tmp_path / "sft" / "booster"
    assert components.starting_booster(tmp_path, 2) == tmp_path / "round_1" / "booster"
    with pytest.raises(BadInput, match="run `pav dpo --round=2` first"):
        components.starting_booster(tmp_path, 3)


def test_load_configured_generator_settings(monkeypatch):
    monkeypatch.setattr(components, "load_generator", lambda path, **options: (path, options))
    config = load()
    config.generator.path = "some/folder"
    config.generator.num_inference_steps = 3
    config.generator.batch_size = 4
    assert components.load_configured_generator(config.generator) == (
        "some/folder",
        {
            "dtype": "float32",
            "mesh": None,
            "auxiliary_mesh": None,
            "sequence_attention": "auto",
            "num_inference_steps": 3,
            "batch_size": 4,
        },
    )
    settings = dict(
        flow_shift=12.0,
        scheduler="FlowMatchEulerDiscreteScheduler",
        guidance_start=0.0,
        guidance_stop=0.7,
        cache_threshold=0.3,
        cache_max_skips=2,
        cache_retention=0.1,
    )
    config.generator.update(settings)
    _, options = components.load_configured_generator(config.generator)
    assert settings.items() <= options.items()


def test_load_rewriter_mesh_without_some_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    with pytest.raises(BadInput) as caught:
        components.load_rewriter(load())
    assert caught.value.field == "mesh"


def test_rewriter_sampling_of_configuration():
    config = load()
    config.rewriter.temperature = 0.5
    config.rewriter.max_new_tokens = 9
    sampling = components.rewriter_sampling(config)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 50, 1.0)
    assert sampling.max_new_tokens == 9


def test_load_rewriter_saves_sampling(tmp_path):
    tiny_language_model().save_pretrained(tmp_path / "base")
    config = load()
    config.rewriter.path = str(tmp_path / "base")
    config.rewriter.temperature = 0.5
    config.rewriter.max_new_tokens = 9
    components.load_rewriter(config).save_pretrained(tmp_path / "booster")
    booster = Booster.from_pretrained(tmp_path / "booster")
    assert booster.sampling == components.rewriter_sampling(config)


def test_load_rewriter_on_mesh(tmp_path):
    tiny_language_model().save_pretrained(tmp_path)
    config = load()
    config.rewriter.path = str(tmp_path)
    single = components.load_rewriter(config)
    assert single.mesh is None
    assert single.batch_size == 16
    config.mesh.fsdp = -1
    sharded = components.load_rewriter(config)
    assert sharded.mesh.size == jax.device_count()
    config.mesh.update(data=jax.device_count(), fsdp=2)
    with pytest.raises(BadInput, match="needs"):
        components.load_rewriter(config)


def test_proposers_of_python_have_configured_limits():
    config = load(overrides=["--config.evolve.max_words=7"])
    proposers = components.Components(config, proposers=[RecordingProposer("a")]).proposers
    assert proposers.max_words == 7
    assert proposers.max_attempts == config.evolve.max_proposal_attempts
