#!/bin/sh
# An evaluation where GPUs can be had for minutes. Rows come to $OUT/NAME.jsonl.gz, packed anew every half minute, and go on where they were when such a file stands in $ROWS.
#   evals.sh selectors NAME TWILIGHT MODEL DATA LENGTH SPECS WORKERS SECONDS   needles at five depths and RULER, in turn, by dense attention and the specs of a file, a line each:
#                                                                              the GPUs read the prompts, so many models on a thread each answer on the processors
#   evals.sh tables NAME TWILIGHT MODEL DATA LENGTH SPECS SAMPLES SECONDS      RULER by dense attention and the specs on the GPUs themselves
#   evals.sh texts NAME TWILIGHT MODEL DATA LENGTH SPECS WORKERS SECONDS       perplexity and KL of $SCORE (64) tokens: a GPU reads the text, so many processes share the specs
# Several may run at once, under different names. DATA has books/war-and-peace.txt and retrieval/nq-open-oracle.jsonl.gz. $GPUS is how many there are (1), from $GPU (0) on, $TOGETHER how many prompts tables hold at once (4), $DEVICE cuda or, to try this
# without one, cpu; $TASKS are those of questions to ask, with commas, needle among them (all). What was under way when the seconds were over has rows of some specs only: methods.py merge leaves those out.
set -u
[ $# -eq 9 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
: "${OUT:=.}" "${ROWS:=/nowhere}" "${GPUS:=1}" "${GPU:=0}" "${TOGETHER:=4}" "${DEVICE:=cuda}" "${SCORE:=64}" "${TASKS:=}"
what=$1 name=$2 twilight=$3 model=$4 data=$5 length=$6 specs=$7 many=$8 end=$(($(date +%s) + $9))
book=$data/books/war-and-peace.txt nq=$data/retrieval/nq-open-oracle.jsonl.gz here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# pack: all rows so far
pack() { ! ls "$work"/rows.*.jsonl >"$work/files" 2>&1 || { xargs python3 "$here/../methods.py" slim <"$work/files" | gzip >"$work/packed" && mv "$work/packed" "$OUT/$name.jsonl.gz"; }; }
# part I COMMAND ARGUMENTS…: one of several processes, with the rows of its own and with the old ones
part() {
	rows=$work/rows.$1.jsonl log=$work/log.$1
	[ ! -e "$ROWS/$name.jsonl.gz" ] || gzip -dc "$ROWS/$name.jsonl.gz" >"$rows"
	shift
	timeout --foreground -s INT -k 10 $((end - $(date +%s))) "$twilight" eval "$@" -m "$model" -c "$length" -o "$rows" >"$log.out" 2>"$log.err"
	echo "$name: $(tr '\r' '\n' <"$log.err" | tail -n 1)" >>"$OUT/evals.log"
	cat "$log.out" >>"$OUT/evals.txt"
}
# with every Nth spec from the Ith on, N times: words for the command line
with() { awk -v i="$1" -v n="$2" 'NF && (NR - 1) % n == i { printf " -a %s", $1 }' "$specs"; }
i=0 parts=
case $what in
selectors)
	while [ $i -lt "$GPUS" ]; do
		# shellcheck disable=SC2046
		CUDA_VISIBLE_DEVICES=$((GPU + i)) part $i ruler -f "$book" --nq "$nq" --needle 10,30,50,70,90 --samples 50 -n $((length - 384)) --shard "$i/$GPUS" --prompt-device "$DEVICE" ${TASKS:+--task "$TASKS"} \
			--workers $(((many + GPUS - 1 - i) / GPUS)) --threads 1 -a dense $(with 0 1) &
		parts="$parts $!" i=$((i + 1))
	done
	;;
tables)
	while [ $i -lt "$GPUS" ]; do
		# shellcheck disable=SC2046
		CUDA_VISIBLE_DEVICES=$((GPU + i)) part $i ruler -f "$book" --nq "$nq" --samples "$many" -n $((length - 384)) --shard "$i/$GPUS" --device "$DEVICE" --together "$TOGETHER" -a dense $(with 0 1) &
		parts="$parts $!" i=$((i + 1))
	done
	;;
texts)
	CUDA_VISIBLE_DEVICES=$((GPU + GPUS - 1)) "$twilight" prefill --raw -m "$model" -c "$length" --device "$DEVICE" -f "$book" --head-tokens $((length - SCORE)) --save "$work/text.kv" 2>>"$OUT/evals.log"
	while [ $i -lt "$many" ]; do
		# shellcheck disable=SC2046
		part $i kl -f "$book" --load "$work/text.kv" -n "$length" --score "$SCORE" --time 0 --threads 1 -a dense $(with $i "$many") &
		parts="$parts $!" i=$((i + 1))
	done
	;;
*) exec "$0" ;;
esac
while sleep 30; do pack; done &
packer=$!
wait $parts
kill $packer
pack
