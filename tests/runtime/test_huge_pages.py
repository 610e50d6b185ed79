import pytest
import torch

from runtime import huge_pages


@pytest.mark.parametrize("shape", [(3,), (700, 800), (3, 1024, 1024), (2**20 + 1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_a_copy_is_the_same_in_memory_of_its_own(shape: tuple[int, ...], dtype) -> None:  # noqa: ANN001
    tensor = torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)
    copy = huge_pages.copy(tensor)
    assert torch.equal(copy, tensor)
    assert copy.is_contiguous()
    if tensor.nbytes >= huge_pages.PAGE_BYTES:
        assert copy.data_ptr() % huge_pages.PAGE_BYTES == 0


def test_a_transposed_tensor_is_copied_in_its_own_order() -> None:
    tensor = torch.arange(2**20).view(1024, 1024).T
    assert torch.equal(huge_pages.copy(tensor), tensor)
    assert huge_pages.copy(tensor).is_contiguous()


def test_advice_changes_nothing_in_what_is_stored() -> None:
    tensor = torch.arange(3 * 2**20)
    address = tensor.data_ptr()
    assert huge_pages.advise(tensor) is tensor
    assert tensor.data_ptr() == address
    assert torch.equal(tensor, torch.arange(3 * 2**20))


def test_what_is_too_small_for_a_huge_page_is_left_alone() -> None:
    assert torch.equal(huge_pages.advise(torch.arange(5)), torch.arange(5))
    assert torch.equal(huge_pages.advise(torch.empty(0)), torch.empty(0))
