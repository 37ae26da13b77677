#!/usr/bin/env bash
# First stage: supervised fine-tuning with LoRA on GSM8K, with a prompt pool and a search for the layers; the result is
# merged into a model for the second stage. Hyper-parameters: config/suite_gsm8k_sft.yaml.
#
#   bash recipes/suite_gsm8k/run_1_supervised_qwen2_5_fsdp.sh            # Qwen2.5-0.5B-Instruct
#   bash recipes/suite_gsm8k/run_2_grpo_qwen2_5_fsdp.sh

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/suite_gsm8k}
# cycle, uniform, block, stratified, static or fixed
POLICY=${POLICY:-cycle}
# a bundled pool or a file of your own, the same in both stages
POOL=${POOL:-gsm8k}
NUM_GPUS=${NUM_GPUS:-1}
# of what the suite draws; verl shuffles the rows alike for every seed
SEED=${SEED:-0}
#########################################################################

RUN_DIR=$OUTPUT_DIR/supervised/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

VERL_FILE_LOGGER_PATH=$LOG torchrun --standalone --nproc_per_node="$NUM_GPUS" -m verl.trainer.sft_trainer \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name suite_gsm8k_sft \
    paft.policy="$POLICY" \
    paft.pool="$POOL" \
    paft.seed="$SEED" \
    flexora.seed="$SEED" \
    data.train_files="$DATA_DIR/train_conversations.parquet" \
    data.val_files="$DATA_DIR/test_conversations.parquet" \
    model.path="$MODEL_PATH" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.experiment_name="supervised-seed$SEED" \
    trainer.default_local_dir="$RUN_DIR" \
    "$@"

# what an earlier try has left of it
rm -rf "$RUN_DIR/adapter"
STEP=$(cat "$RUN_DIR/latest_checkpointed_iteration.txt")
verl-redit flexora export "$RUN_DIR/global_step_$STEP" --base-model "$MODEL_PATH" --out "$RUN_DIR/adapter"
python3 "$(dirname "${BASH_SOURCE[0]}")/merge.py" "$RUN_DIR/adapter" "$RUN_DIR/model"
