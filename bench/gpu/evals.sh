#!/bin/sh
# Questions over long prompts where a GPU can be had for minutes: it reads the prompts, and every selector answers on the processors. Rows go to $OUT, compressed.
#   evals.sh selectors TWILIGHT MODEL DATA LENGTH SPECS WORKERS SECONDS   needles at five depths, then RULER, by dense attention and the specs of a file, a line each
#   evals.sh tables TWILIGHT MODEL DATA LENGTH SAMPLES SECONDS            all of RULER by dense, twilight-paper and twilight on the GPU itself
# DATA has books/war-and-peace.txt and retrieval/nq-open-oracle.jsonl.gz. A run that its seconds stop goes on where it was when its rows stand in $OUT again, or
# compressed in $ROWS. Samples that were under way then have the rows of some specs only: methods.py whole leaves those out.
set -u
[ $# -ge 7 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
: "${OUT:=.}"
what=$1 twilight=$2 model=$3 data=$4 length=$5
book=$data/books/war-and-peace.txt nq=$data/retrieval/nq-open-oracle.jsonl.gz
end=$(date +%s)
# ask FILE COMMAND ARGUMENTS…: what is left of the seconds
ask() {
	rows=$OUT/$1.jsonl
	[ -e "$rows" ] || [ ! -e "${ROWS:-/nowhere}/$1.jsonl.gz" ] || gzip -dc "$ROWS/$1.jsonl.gz" >"$rows"
	left=$((end - $(date +%s)))
	[ $left -gt 0 ] || return 0
	shift
	timeout --foreground -s INT -k 20 $left "$twilight" eval "$@" -m "$model" -c "$length" -o "$rows" >>"$OUT/evals.txt" 2>>"$OUT/evals.log"
	gzip -kf "$rows"
}
case $what in
selectors)
	specs=$6 workers=$7 end=$((end + $8)) name=$(basename "$6" .txt)-$length
	set -- -n $((length - 384)) --prompt-device cuda --workers "$workers" --threads 1 -a dense
	while read -r spec; do [ -z "$spec" ] || set -- "$@" -a "$spec"; done <"$specs"
	ask "needle-$name" needle -f "$book" --depths 10,30,50,70,90 --samples 3 "$@"
	ask "ruler-$name" ruler -f "$book" --nq "$nq" --samples 50 "$@"
	;;
tables)
	samples=$6 end=$((end + $7))
	ask "tables-$length" ruler -f "$book" --nq "$nq" -n $((length - 384)) --samples "$samples" --device cuda --together 4 -a dense -a twilight-paper -a twilight
	;;
esac
rm -f "$OUT"/*.jsonl
