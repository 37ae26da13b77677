#!/usr/bin/env bash
# Supervised fine-tuning with LoRA on GSM8K, every prompt rendered with a template of a pool, on one GPU.
# Hyper-parameters: config/paft_sft.yaml.
#
#   bash recipes/paft_sft/run_qwen2_5_fsdp.sh                            # Qwen2.5-0.5B-Instruct
#   POLICY=block bash recipes/paft_sft/run_qwen2_5_fsdp.sh               # the paper: a template for every 4 rows
#   POLICY=fixed bash recipes/paft_sft/run_qwen2_5_fsdp.sh               # the control: one template for all

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/paft_sft}
# cycle, uniform, block, stratified, static or fixed
POLICY=${POLICY:-cycle}
# a bundled pool or a file of your own
POOL=${POOL:-gsm8k}
NUM_GPUS=${NUM_GPUS:-1}
# of what the suite draws; verl shuffles the rows alike for every seed
SEED=${SEED:-0}
#########################################################################

RUN_DIR=$OUTPUT_DIR/$POLICY/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

VERL_FILE_LOGGER_PATH=$LOG torchrun --standalone --nproc_per_node="$NUM_GPUS" -m verl.trainer.sft_trainer \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name paft_sft \
    paft.policy="$POLICY" \
    paft.pool="$POOL" \
    paft.seed="$SEED" \
    data.train_files="$DATA_DIR/train_conversations.parquet" \
    data.val_files="$DATA_DIR/test_conversations.parquet" \
    model.path="$MODEL_PATH" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.experiment_name="$POLICY-seed$SEED" \
    trainer.default_local_dir="$RUN_DIR" \
    "$@"
