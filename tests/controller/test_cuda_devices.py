import pytest

from controller.cuda_devices import AssignedGpu, assigned_gpu

TORCH = "8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize("visible", [None, "0", "3,1", "GPU-8932f937", "2,2"])
def test_cudas_own_uuid_goes_before_every_list(visible: str | None) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert assigned_gpu(environment, TORCH) == AssignedGpu((f"GPU-{TORCH}", f"MIG-{TORCH}"))


def test_a_mig_device_goes_before_the_uuid_of_its_gpu() -> None:
    assert assigned_gpu({"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"}, TORCH) == AssignedGpu(("MIG-1",))


def test_without_cudas_uuid_the_first_of_the_list_counts() -> None:
    assert assigned_gpu({"CUDA_VISIBLE_DEVICES": "GPU-1, GPU-2"}, None) == AssignedGpu(("GPU-1",))
    assert assigned_gpu({"CUDA_VISIBLE_DEVICES": " 3,1"}, None) == AssignedGpu(index=3)
    assert assigned_gpu({}, None) == AssignedGpu(index=0)


def test_an_index_says_whether_it_counts_along_the_pci_bus() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert assigned_gpu(environment, None) == AssignedGpu(index=2, in_pci_order=True)
    environment["CUDA_DEVICE_ORDER"] = "FASTEST_FIRST"
    assert assigned_gpu(environment, None) == AssignedGpu(index=2)


@pytest.mark.parametrize("visible", ["", "-1", "-1,0", "none", "NoDevFiles"])
def test_a_list_that_hides_every_gpu_assigns_none_and_says_so(visible: str) -> None:
    missing = f"CUDA_VISIBLE_DEVICES={visible} names no GPU"
    assigned = assigned_gpu({"CUDA_VISIBLE_DEVICES": visible}, None)
    assert assigned == AssignedGpu(missing=missing)


@pytest.mark.parametrize("visible", ["1,1", "GPU-1,GPU-1"])
def test_a_gpu_listed_twice_hides_all_as_in_cuda(visible: str) -> None:
    assigned = assigned_gpu({"CUDA_VISIBLE_DEVICES": visible}, None)
    assert assigned.missing == f"CUDA_VISIBLE_DEVICES={visible} names a GPU twice"
