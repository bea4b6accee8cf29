#!/bin/sh
# One job from a picture to its layers, as the `sample` service of docker-compose.yml runs it:
#   docker compose run --rm sample [PICTURE below examples/, else scene.png]
set -eu
picture=/examples/${1:-scene.png}
name=$(basename "$picture")
name=${name%.*}
id=$(cat /proc/sys/kernel/random/uuid)

# --upload puts the picture into the bucket and submits its s3:// address; --wait ends when the job has.
acetate submit decompose --input "$picture" --upload --output "${ACETATE__STORE__URL%/}/$name/" \
    --id "$id" --seed 7 --wait
rm -rf "/out/$name"
acetate jobs fetch "$id" --out "/out/$name"
# What root wrote belongs to whoever owns the checkout.
chown -R --reference=/examples /out

echo
echo "out/$name"
ls "/out/$name"
