import re

import pytest

from fluxnb.checkpoints import catalog
from fluxnb.checkpoints.places import STEMS
from fluxnb.errors import UnknownModelError


@pytest.mark.parametrize("entry", catalog.ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_found_by_its_name_in_any_case(entry):
    assert catalog.find(entry.name) is entry
    assert catalog.find(entry.name.upper()) is entry


@pytest.mark.parametrize("entry", catalog.ENTRIES, ids=lambda entry: entry.name)
def test_defaults_can_be_drawn_with(entry):
    assert entry.num_steps >= 1
    assert all(side % 2 == 0 for side in entry.latent_size)
    assert entry.licence != "unknown"


def test_an_unknown_name_lists_the_names_there_are():
    with pytest.raises(UnknownModelError) as caught:
        catalog.find("stable-diffusion")
    message = str(caught.value)
    assert "'stable-diffusion'" in message
    assert all(repr(entry.name) in message for entry in catalog.ENTRIES)
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [("FLUX.1-schnell", "black-forest-labs/FLUX.1-schnell"), ("fluxnb/dmeo", "fluxnb/demo")],
)
def test_a_near_name_is_suggested(name, meant):
    with pytest.raises(UnknownModelError, match=re.escape(f"did you mean '{meant}'?")):
        catalog.find(name)


def test_any_repository_on_the_hub_may_be_named():
    entry = catalog.find("Someone/flux-of-mine")
    assert entry.repos == ("Someone/flux-of-mine",)
    assert entry.licence == "unknown"


@pytest.mark.parametrize(
    "name", ["../etc", "a/../b", "a/b/c", "a b/c", "/a", "a/", "fluxnb/other", "ä/b", "a--b/c"]
)
def test_what_is_no_name_of_a_repository_is_unknown(name):
    with pytest.raises(UnknownModelError, match="there is no model named"):
        catalog.find(name)


@pytest.mark.parametrize("entry", [e for e in catalog.ENTRIES if e.places], ids=lambda entry: entry.name)
def test_every_component_of_a_model_on_the_hub_has_one_place(entry):
    components = sorted(place.component for place in entry.places)
    diffusers = {"scheduler"} if "argmaxinc" not in entry.name else set()
    assert components == sorted({*STEMS, "tokenizer", "tokenizer_2"} | diffusers)
    assert entry.repos[0] == entry.name


def test_an_entry_can_be_narrowed_to_some_components():
    narrow = catalog.SCHNELL_4BIT.only(("vae", "tokenizer"))
    assert [place.component for place in narrow.places] == ["vae", "tokenizer"]


@pytest.mark.parametrize("name", [None, 3, ("fluxnb/demo",)])
def test_what_is_no_name_is_unknown_too(name):
    with pytest.raises(UnknownModelError, match="there is no model named"):
        catalog.find(name)
