case "$1" in
  --force) force=1 ;;
esac
