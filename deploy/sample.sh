#!/bin/sh
# Runs one job, from a picture to its layers; this is the `sample` service of docker-compose.yml:
#   docker compose run --rm sample [PICTURE below examples/, else scene.png]
set -eu
picture=/examples/${1:-scene.png}
name=$(basename "$picture")
name=${name%.*}
id=$(cat /proc/sys/kernel/random/uuid)

# --upload copies the picture into the bucket and submits its s3:// address; --wait waits for the job to end.
acetate submit decompose --input "$picture" --upload --output "${ACETATE__STORE__URL%/}/$name/" \
    --id "$id" --seed 7 --wait
rm -rf "/out/$name"
acetate jobs fetch "$id" --out "/out/$name"
# Give the files that root wrote to the owner of the checkout.
chown -R --reference=/examples /out

echo
echo "out/$name"
ls "/out/$name"
