//! The files of the S3 server: those of s3s-fs, whose lists say `encoding-type=url` without encoding the keys.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{S3, S3Request, S3Response, S3Result, dto};
use s3s_fs::FileSystem;

pub struct Files(pub FileSystem);

/// What acetate and these tests use is passed on.
macro_rules! passed_on {
    ($($name:ident: $input:ident -> $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Files {
            $(async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                self.0.$name(request).await
            })*

            async fn list_objects_v2(
                &self,
                request: S3Request<dto::ListObjectsV2Input>,
            ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
                let mut answer = self.0.list_objects_v2(request).await?;
                let is_encoded = answer.output.encoding_type.as_ref().is_some_and(|kind| kind.as_str() == "url");
                for object in answer.output.contents.iter_mut().flatten().filter(|_| is_encoded) {
                    object.key = object.key.take().map(|key| utf8_percent_encode(&key, NON_ALPHANUMERIC).to_string());
                }
                Ok(answer)
            }
        }
    };
}

passed_on! {
    get_object: GetObjectInput -> GetObjectOutput;
    head_object: HeadObjectInput -> HeadObjectOutput;
    copy_object: CopyObjectInput -> CopyObjectOutput;
    put_object: PutObjectInput -> PutObjectOutput;
    delete_object: DeleteObjectInput -> DeleteObjectOutput;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput;
    upload_part: UploadPartInput -> UploadPartOutput;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput;
}
