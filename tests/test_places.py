import pytest

from fluxnb.checkpoints.places import Place, choose, diffusers, diffusionkit

TRANSFORMER = Place("transformer", "a/b", "transformer")
STEM = "transformer/diffusion_pytorch_model"


def test_one_file_of_weights_is_chosen_with_its_config():
    held = [
        "transformer/config.json",
        f"{STEM}.safetensors",
        f"{STEM}.fp16.safetensors",
        "flux1-dev.safetensors",
    ]
    assert choose(TRANSFORMER, held) == (("transformer/config.json", f"{STEM}.safetensors"), ())


def test_shards_are_chosen_instead_of_a_file_that_holds_them_all():
    index, shards = f"{STEM}.safetensors.index.json", [f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    held = ["transformer/config.json", f"{STEM}.safetensors", index, *shards]
    assert choose(TRANSFORMER, held) == (("transformer/config.json", index, *shards), ())


def test_a_shard_that_is_not_there_is_missed_by_its_number():
    held = ["transformer/config.json", f"{STEM}-00001-of-00002.safetensors"]
    index, second = f"{STEM}.safetensors.index.json", f"{STEM}-00002-of-00002.safetensors"
    assert choose(TRANSFORMER, held)[1] == (index, second)


def test_an_index_without_a_shard_is_not_enough():
    held = ["transformer/config.json", f"{STEM}.safetensors.index.json"]
    assert choose(TRANSFORMER, held)[1] == (f"{STEM}-*.safetensors",)


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        (("vocab.json", "merges.txt", "tokenizer.json"), ("vocab.json", "merges.txt")),
        (("tokenizer.json",), ("tokenizer.json",)),
    ],
)
@pytest.mark.parametrize("path", ["tokenizer", ""])
def test_a_tokenizer_is_taken_in_either_form_from_a_folder_or_the_top(path, held, chosen):
    start = f"{path}/" if path else ""
    names = [f"{start}{name}" for name in ("tokenizer_config.json", *held)]
    files, missing = choose(Place("tokenizer", "a/b", path), names)
    assert files == tuple(f"{start}{name}" for name in ("tokenizer_config.json", *chosen))
    assert missing == ()


def test_a_single_file_is_its_own_place():
    place = Place("vae", "a/b", "ae.safetensors")
    assert choose(place, ["ae.safetensors", "config.json"]) == (("ae.safetensors",), ())
    assert choose(place, ["flux.safetensors"]) == ((), ("ae.safetensors",))


@pytest.mark.parametrize("places", [diffusers("a/b"), diffusionkit("a/b", "flux.safetensors")])
def test_of_an_empty_repository_something_is_missed_for_every_component(places):
    assert all(choose(place, ())[1] for place in places)
