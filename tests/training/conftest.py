import pytest
import torch

from modeling_ser_mtl import SerMtlModel
from modeling_ser_mtl.data.collator import SerMtlCollator
from modeling_ser_mtl.training.arguments import SerMtlTrainingArguments
from modeling_ser_mtl.training.trainer import SerMtlTrainer


@pytest.fixture
def make_trainer(tmp_path, make_processor):
    """A trainer of a model in `config` on `train_dataset`, with plain SGD unless the options say otherwise."""

    def make(config, train_dataset=None, eval_dataset=None, **options) -> SerMtlTrainer:
        torch.manual_seed(0)
        quiet = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
        plain = {"optim": "sgd", "weight_decay": 0.0, "warmup_steps": 0, "lr_scheduler_type": "constant"}
        args = {"output_dir": tmp_path, "use_cpu": True, "report_to": "none", "logging_steps": 1} | quiet | plain
        processor = make_processor(config)
        config.vocab_size = len(processor.tokenizer)
        return SerMtlTrainer(
            model=SerMtlModel(config),
            args=SerMtlTrainingArguments(**(args | options)),
            processing_class=processor,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=SerMtlCollator(processor),
        )

    return make
