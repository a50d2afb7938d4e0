"""What a run remembers of its epochs, and what it draws in them."""

from unittest.mock import Mock

import torch
from lightning import LightningModule, Trainer

from fgbench.resume import History, RepeatableEpochs


def epoch(history, number, steps, **metrics):
    module = Mock(spec=LightningModule, device=torch.device("cpu"))
    trainer = Mock(spec=Trainer, current_epoch=number, callback_metrics=metrics)
    trainer.strategy.reduce = lambda x, reduce_op: x
    history.on_train_epoch_start(trainer, module)
    for step, terms in enumerate(steps):
        module.terms = {name: torch.tensor(value) for name, value in terms.items()}
        history.on_train_batch_end(trainer, module, None, None, step)
    history.on_train_epoch_end(trainer, module)


def test_an_epoch_is_its_mean_loss_and_its_accuracy_where_there_is_one():
    history = History()
    epoch(history, 0, [{"loss": 1.0, "spread": 0.5}, {"loss": 3.0, "spread": 1.0}])
    assert history.state_dict() == {"loss": [2.0], "spread": [0.75]}
    history = History()
    epoch(history, 0, [{"loss": 1.0}], **{"val/accuracy": torch.tensor(12.5)})
    epoch(history, 1, [{"loss": 0.5}], **{"val/accuracy": torch.tensor(25.0)})
    epoch(history, 1, [{"loss": 0.25}], **{"val/accuracy": torch.tensor(50.0)})  # done again after a kill
    assert history.epochs == {"loss": [1.0, 0.25], "val_accuracy": [12.5, 50.0]}


def test_a_term_has_a_number_for_each_epoch_or_none_at_all():
    history = History()
    epoch(history, 0, [{"loss": 1.0, "spread": float("inf")}])
    epoch(history, 1, [{"loss": 0.5, "spread": 1.0}])
    assert history.epochs == {"loss": [1.0, 0.5]}
    older = History()
    older.load_state_dict({"loss": [1.0, 0.5]})  # of a checkpoint that has no terms
    epoch(older, 2, [{"loss": 0.25, "spread": 1.0}])
    assert older.epochs == {"loss": [1.0, 0.5, 0.25]}


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
