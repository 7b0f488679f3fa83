#!/bin/sh
# Carries a model to a machine without a network in parts of at most 60 MB.
#   parts.sh split MODEL FOLDER     writes FOLDER/NAME.000, .001, … and NAME.sha256
#   parts.sh join FOLDER/NAME OUT   joins them, whatever order they came in, and checks the sum
set -eu
case "${1-}" in
split)
	[ $# = 3 ] || { echo "parts.sh split MODEL FOLDER" >&2; exit 2; }
	name=$(basename "$2")
	mkdir -p "$3"
	split -b 60000000 -d -a 3 "$2" "$3/$name."
	sha256sum <"$2" | cut -c1-64 >"$3/$name.sha256"
	;;
join)
	[ $# = 3 ] || { echo "parts.sh join FOLDER/NAME OUT" >&2; exit 2; }
	cat "$2".[0-9][0-9][0-9] >"$3"
	want=$(cat "$2.sha256") got=$(sha256sum <"$3" | cut -c1-64)
	[ "$got" = "$want" ] || { echo "parts.sh: $3 has SHA-256 $got, expected $want: a part is missing or damaged" >&2; rm -f "$3"; exit 1; }
	;;
*)
	sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
