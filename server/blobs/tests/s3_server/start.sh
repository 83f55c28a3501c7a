#!/bin/sh
# Starts an S3 server on a directory, says which process it is, and ends it when standard input ends, which is when the program of the
# tests ends, in whatever way; then removes the directory.
#
# usage: start.sh KIND PROGRAM DIRECTORY PORT. KEY and SECRET are the credentials that the server is to know, REGION its region.
# Servers that take more than one port take those behind PORT.
kind=$1 program=$2 directory=$3 port=$4

case "$kind" in
versitygw)
  mkdir "$directory/buckets"
  ROOT_ACCESS_KEY=$KEY ROOT_SECRET_KEY=$SECRET VGW_REGION=$REGION "$program" --port "127.0.0.1:$port" --quiet \
    --access-log "$directory/requests" posix "$directory/buckets" >"$directory/log" 2>&1 &
  ;;
seaweedfs)
  mkdir "$directory/data"
  cat >"$directory/s3.json" <<END
{"identities": [{"name": "tests", "credentials": [{"accessKey": "$KEY", "secretKey": "$SECRET"}],
  "actions": ["Admin", "Read", "Write", "List"]}]}
END
  # Small volumes, and no services but those that S3 needs.
  "$program" server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$directory/data" -master.port=$((port + 1)) \
    -volume.port=$((port + 2)) -filer -filer.port=$((port + 3)) -s3 -s3.port="$port" -s3.config="$directory/s3.json" \
    -s3.port.iceberg=0 -s3.port.lance=0 -volume.max=100 -master.volumeSizeLimitMB=128 >"$directory/log" 2>&1 &
  ;;
minio)
  MINIO_ROOT_USER=$KEY MINIO_ROOT_PASSWORD=$SECRET MINIO_UPDATE=off MINIO_BROWSER=off \
    "$program" server "$directory/data" --address "127.0.0.1:$port" >"$directory/log" 2>&1 &
  ;;
garage)
  cat >"$directory/garage.toml" <<END
metadata_dir = "$directory/meta"
data_dir = "$directory/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$((port + 1))"
rpc_public_addr = "127.0.0.1:$((port + 1))"
rpc_secret = "$SECRET"
[s3_api]
s3_region = "$REGION"
api_bind_addr = "127.0.0.1:$port"
END
  "$program" -c "$directory/garage.toml" server >"$directory/log" 2>&1 &
  ;;
*)
  exit 2
  ;;
esac
server=$!

if [ "$kind" = garage ]; then
  garage() { "$program" -c "$directory/garage.toml" "$@"; }
  {
    tries=0
    until node=$(garage node id --quiet) && garage status; do
      tries=$((tries + 1))
      [ "$tries" -lt 100 ] || break
      sleep 0.1
    done
    garage layout assign --zone tests --capacity 10G "${node%@*}"
    garage layout apply --version 1
    garage key import --yes "$KEY" "$SECRET"
    garage bucket create tests
    garage bucket allow --read --write --owner tests --key "$KEY"
  } >>"$directory/log" 2>&1
fi

echo "$server"
cat >/dev/null
kill -KILL "$server"
wait
rm -rf "$directory"
