"""The datamodule inside of Lightning: epochs reach the sampler, processes see what one process sees."""

import lightning
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback

from fgbench.data import BenchDataModule, View


class _Look(lightning.LightningModule):
    """Trains nothing, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.tested = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch.image_id.tolist(), batch.frame[:, 0].tolist()))
        return self.weight * 1.0

    def test_step(self, batch, batch_idx):
        self.tested += batch.image_id.tolist()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class _Stop(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch == 1


def _trainer(tmp_path, **kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(default_root_dir=tmp_path, use_distributed_sampler=False, **quiet, **kwargs)


@pytest.mark.parametrize("workers", [0, 1])
def test_epochs_of_lightning_reach_the_sampler_and_a_resumed_run_goes_on(toybirds, tmp_path, workers):
    def data():
        return toybirds(batch_size=4, workers=workers, train_view=View(flip=0.5))

    whole, first, second = _Look(), _Look(), _Look()
    _trainer(tmp_path / "a", max_epochs=3).fit(whole, data())
    half = _trainer(tmp_path / "b", max_epochs=3, callbacks=[_Stop()])
    half.fit(first, data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    _trainer(tmp_path / "c", max_epochs=3).fit(second, data(), ckpt_path=tmp_path / "half.ckpt")
    assert len({str(ids) for _, ids, _ in whole.seen}) == len(whole.seen) == 3 * 4
    assert first.seen + second.seen == whole.seen


def test_lightning_tests_every_image_and_skips_a_validation_that_there_is_not(toybirds, tmp_path):
    data, look = toybirds(batch_size=4, eval_batch_size=5), _Look()
    trainer = _trainer(tmp_path, max_epochs=1)
    trainer.fit(look, data)
    trainer.test(look, data, verbose=False)
    assert sorted(look.tested) == data.listing.image_id[data.listing.rows("test")].tolist()


def _rank(rank, world, port, make, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    data = make
    train = [batch.image_id.tolist() for batch in data.train_dataloader()]
    test = [batch.image_id.tolist() for batch in data.test_dataloader()]
    torch.save((train, test), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(toybirds, tmp_path, world):
    data = toybirds(batch_size=6, eval_batch_size=4)
    train = [batch.image_id.tolist() for batch in data.train_dataloader()]
    test = [batch.image_id.tolist() for batch in data.test_dataloader()]
    port = 29500 + torch.randint(0, 2000, (1,), generator=torch.Generator().manual_seed(id(data) % 2**31)).item()
    torch.multiprocessing.start_processes(_rank, (world, port, data, tmp_path), nprocs=world, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    assert [sum(step, []) for step in zip(*(part[0] for part in parts), strict=True)] == train  # noqa: RUF017
    dealt = [batch for part in parts for batch in part[1]]
    assert sorted(dealt) == sorted(test)


def test_yaml_says_everything(tmp_path):
    """The constructor's signature is the configuration, with the arguments of the base class."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(BenchDataModule, "data")
    text = {
        "data": {
            "class_path": "fgbench.data.ToyBirds",
            "init_args": {"num_classes": 4, "num_images": 8, "batch_size": 6, "train_view": {"flip": 0.5}},
        }
    }
    config = parser.parse_string(yaml.safe_dump(text))
    data = parser.instantiate(config).data
    assert (data.batch_size, data.num_outputs, data.train_view) == (6, 4, View(flip=0.5))
    text["data"]["init_args"]["batchsize"] = 3
    with pytest.raises(Exception, match="batchsize"):
        _parse_strictly(text)


def _parse_strictly(text):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BenchDataModule, "data")
    parser.parse_string(yaml.safe_dump(text))


def test_data_root_comes_from_argument_or_default(monkeypatch):
    from fgbench.data import CUB200

    monkeypatch.setenv("FGBENCH_DATA", "/somewhere")  # a run depends on its configuration only
    assert str(CUB200().root) == "data"
    assert str(CUB200(root="/else").root) == "/else"
