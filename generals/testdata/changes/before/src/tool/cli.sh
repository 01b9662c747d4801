case "$1" in
  --dry-run) dry=1 ;;
  --force) force=1 ;;
esac
