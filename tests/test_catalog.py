import pytest

from fluxnb.checkpoints import catalog
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


def test_a_near_name_is_suggested():
    with pytest.raises(UnknownModelError, match=r"did you mean 'black-forest-labs/FLUX\.1-schnell'\?"):
        catalog.find("black-forest-labs/FLUX-schnell")


@pytest.mark.parametrize("name", [None, 3, ("fluxnb/demo",)])
def test_what_is_no_name_is_unknown_too(name):
    with pytest.raises(UnknownModelError, match="there is no model named"):
        catalog.find(name)
