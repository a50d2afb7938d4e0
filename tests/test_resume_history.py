"""What a run remembers of its epochs, and what it draws in them."""

from unittest.mock import Mock

import torch
from lightning import LightningModule, Trainer

from fgbench.resume import History, RepeatableEpochs


def epoch(history, number, losses, **metrics):
    module = Mock(spec=LightningModule, device=torch.device("cpu"))
    trainer = Mock(spec=Trainer, current_epoch=number, callback_metrics=metrics)
    trainer.strategy.reduce = lambda x, reduce_op: x
    history.on_train_epoch_start(trainer, module)
    for step, loss in enumerate(losses):
        history.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, None, step)
    history.on_train_epoch_end(trainer, module)


def test_an_epoch_is_its_mean_loss_and_its_accuracy_where_there_is_one():
    history = History()
    epoch(history, 0, [1.0, 3.0])
    assert history.state_dict() == {"loss": [2.0]}
    history = History()
    epoch(history, 0, [1.0], **{"val/accuracy": torch.tensor(12.5)})
    epoch(history, 1, [0.5], **{"val/accuracy": torch.tensor(25.0)})
    epoch(history, 1, [0.25], **{"val/accuracy": torch.tensor(50.0)})  # done again after a kill
    assert history.epochs == {"loss": [1.0, 0.25], "val_accuracy": [12.5, 50.0]}


def drawn(seed, number, rank):
    trainer = Mock(spec=Trainer, current_epoch=number, global_rank=rank)
    RepeatableEpochs(seed).on_train_epoch_start(trainer, Mock(spec=LightningModule))
    return torch.rand(3).tolist()


def test_all_processes_draw_the_same_and_every_seed_and_epoch_other_numbers():
    assert drawn(0, 5, rank=0) == drawn(0, 5, rank=1) == drawn(0, 5, rank=7)
    some = [drawn(seed, number, rank=0) for seed in range(3) for number in range(3)]
    assert len({tuple(numbers) for numbers in some}) == 9
    found = drawn(2, 3, rank=1)
    torch.manual_seed((2 * 1_000_003 + 3) * 4096)  # what committed runs, of one process, drew
    assert found == torch.rand(3).tolist()
