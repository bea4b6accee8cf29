//! s3s-fs, except that listing a prefix of which there is nothing costs nothing.

use std::path::PathBuf;

use s3s::{S3, S3Request, S3Response, S3Result, dto::*};
use s3s_fs::FileSystem;

pub struct Files {
    folder: PathBuf,
    files: FileSystem,
}

impl Files {
    pub fn new(folder: PathBuf) -> Result<Self, String> {
        let files = FileSystem::new(&folder).map_err(|error| format!("{error:?}"))?;
        Ok(Self { folder, files })
    }
}

/// The operations that the benchmark's programs use. The others answer `NotImplemented`.
#[async_trait::async_trait]
impl S3 for Files {
    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, .. } = &req.input;
        let bucket_folder = self.folder.join(bucket);
        let prefix = prefix.clone().unwrap_or_default();
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !bucket_folder.exists() || bucket_folder.join(folder).exists() {
            return self.files.list_objects_v2(req).await;
        }
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket.clone()),
            prefix: Some(prefix),
            key_count: Some(0),
            is_truncated: Some(false),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(req).await
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.files.put_object(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(req).await
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files.create_bucket(req).await
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(req).await
    }
}
