#!/usr/bin/env bash
# Supervised fine-tuning with LoRA on GSM8K, on the layers that deserve it, on one GPU. Hyper-parameters:
# config/flexora_sft.yaml.
#
#   bash recipes/flexora_sft/run_qwen2_5_fsdp.sh                         # search, then go on, in one run
#   FLEXORA=search bash recipes/flexora_sft/run_qwen2_5_fsdp.sh trainer.total_epochs=1       # two runs: search …
#   FLEXORA=selected bash recipes/flexora_sft/run_qwen2_5_fsdp.sh                            # … and train on its choice
#   # the paper's scores; flash attention takes no float32
#   bash recipes/flexora_sft/run_qwen2_5_fsdp.sh flexora.method=unrolled \
#       '+engine.mixed_precision={param_dtype:float32,reduce_dtype:float32,buffer_dtype:float32}' \
#       +model.override_config.attn_implementation=sdpa model.use_remove_padding=false

set -xeuo pipefail

############################# user settings #############################
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-0.5B-Instruct}
DATA_DIR=${DATA_DIR:-$HOME/data/gsm8k}
OUTPUT_DIR=${OUTPUT_DIR:-checkpoints/flexora_sft}
# one_run, or search and then selected, or none for all layers
FLEXORA=${FLEXORA:-one_run}
# what FLEXORA=selected trains on; by default the outcome of FLEXORA=search with the same seed
SELECTION=${SELECTION:-}
NUM_GPUS=${NUM_GPUS:-1}
# of what the suite draws; verl shuffles the rows alike for every seed
SEED=${SEED:-0}
#########################################################################

RUN_DIR=$OUTPUT_DIR/$FLEXORA/seed$SEED
LOG=$(realpath -m "${VERL_FILE_LOGGER_PATH:-$RUN_DIR/metrics.jsonl}")
mkdir -p "$RUN_DIR" "$(dirname "$LOG")"
# verl empties its log as it starts; an earlier start's stays beside it
if [ -s "$LOG" ]; then mv "$LOG" "$LOG.$(date +%s)"; fi
touch "$LOG"

# the released code searches for 600 updates, with 8 of 4,800 rows in each; here, as without a choice there is no search
CHOICE=(flexora="sft_$FLEXORA" flexora.seed="$SEED" flexora.search_steps=600)
if [ "$FLEXORA" = none ]; then
    CHOICE=("~flexora")
elif [ "$FLEXORA" = selected ]; then
    CHOICE+=(flexora.selection="${SELECTION:-$OUTPUT_DIR/search/seed$SEED/flexora/selection.json}")
fi

VERL_FILE_LOGGER_PATH=$LOG torchrun --standalone --nproc_per_node="$NUM_GPUS" -m verl.trainer.sft_trainer \
    --config-path "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/config" \
    --config-name flexora_sft \
    "${CHOICE[@]}" \
    data.train_files="$DATA_DIR/train_conversations.parquet" \
    data.val_files="$DATA_DIR/test_conversations.parquet" \
    model.path="$MODEL_PATH" \
    trainer.n_gpus_per_node="$NUM_GPUS" \
    trainer.experiment_name="$FLEXORA-seed$SEED" \
    trainer.default_local_dir="$RUN_DIR" \
    "$@"
