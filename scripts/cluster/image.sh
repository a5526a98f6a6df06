#!/usr/bin/env bash
# Makes an image of a Dockerfile without a registry and without Docker: Debian comes from
# debootstrap, RUN runs in it, COPY makes a layer of its own. It knows FROM debian:SUITE,
# RUN, COPY --chmod, USER and ENTRYPOINT, and refuses everything else.
# usage: scripts/cluster/image.sh CONTEXT REFERENCE OUT.tar    (CACHE=DIR keeps the base)
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/needs.sh
context=$1 reference=$2 out=$3 cache=${CACHE:-bin/cluster} mkimg=${MKIMG:-bin/cluster/mkimg}
need_commands debootstrap=debootstrap
work=$(mktemp -d "$cache/.image.XXXX")
trap 'umount "$work/root/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT

layer() { # layer DIR OUT: the same files make the same layer
  tar -C "$1" --sort=name --numeric-owner --owner=0 --group=0 -cf "$2" .
}

layers=() entry='' steps=''
while read -r word rest; do
  case $word in
    '' | '#'*) ;;
    FROM)
      suite=${rest#debian:}; suite=${suite%-slim}
      [ "$suite" != "$rest" ] || die "FROM $rest: only debian:SUITE can be made here"
      ;;
    RUN) steps+="$rest"$'\n' ;;
    COPY)
      mode=${rest#--chmod=}; mode=${mode%% *}
      read -r from to <<<"${rest#--chmod="$mode" }"
      dir=$work/copy${#layers[@]}
      install -D -m "$mode" "$context/$from" "$dir$to"
      layer "$dir" "$dir.tar"
      layers+=("$dir.tar")
      ;;
    USER) ;; # the manifests name it
    ENTRYPOINT) entry=$(tr -d '[]" ' <<<"$rest") ;;
    *) die "the Dockerfile has $word, which this script does not know" ;;
  esac
done <"$context/Dockerfile"

base=$cache/base-$(sha256sum <<<"$suite$steps" | cut -c1-16).tar
if [ ! -s "$base" ]; then
  say "making the base: Debian $suite and the steps of the Dockerfile"
  as_root debootstrap --variant=minbase "$suite" "$work/root" >"$work/log" 2>&1 || die "debootstrap failed: $(tail -3 "$work/log")"
  mount -t proc proc "$work/root/proc"
  while read -r step; do
    [ -z "$step" ] || chroot "$work/root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "$step" >"$work/log" 2>&1 </dev/null ||
      die "RUN $step: $(tail -5 "$work/log")"
  done <<<"$steps"
  umount "$work/root/proc"
  rm -rf "$work"/root/dev/* "$work"/root/var/cache/apt/archives/*.deb
  tar -C "$work/root" --numeric-owner -cf "$base.new" .
  mv "$base.new" "$base"
fi
"$mkimg" "$out" "$reference" "$entry" "$base" "${layers[@]}"
