"""Splits pictures into RGBA layers and edits them, with an acetate server.

```python
from acetate import Client

client = Client("http://127.0.0.1:8080")
layers = client.decompose("scene.png", layers=4)
edited = client.edit_layer(layers[2], "Change the color to blue")
layers.replace(2, edited).composite().save("new.png")
```
"""

from . import errors, webhooks
from ._async.batch import AsyncBatch
from ._async.client import AsyncClient
from ._async.job import AsyncJob
from ._inputs import ImageInput, Row
from ._pictures import Layers, Picture, Source, Variants, WorkflowResult
from ._results import Result
from ._sheets import Sheet
from ._sync.batch import Batch
from ._sync.client import Client
from ._sync.job import Job
from ._types import BatchInfo, ErrorInfo, JobInfo, Model, Models, Output, Placement, Progress
from ._version import VERSION as __version__
from .errors import (
    AcetateError,
    ApiError,
    BatchTimeout,
    Conflict,
    ConnectionFailed,
    Forbidden,
    IntegrityError,
    InvalidRequest,
    InvalidSignature,
    JobCancelled,
    JobFailed,
    NotFound,
    RateLimited,
    RowsRefused,
    Unauthorized,
    Unavailable,
    WaitTimeout,
)

__all__ = [
    "AcetateError",
    "ApiError",
    "AsyncBatch",
    "AsyncClient",
    "AsyncJob",
    "Batch",
    "BatchInfo",
    "BatchTimeout",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "ErrorInfo",
    "Forbidden",
    "ImageInput",
    "IntegrityError",
    "InvalidRequest",
    "InvalidSignature",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobInfo",
    "Layers",
    "Model",
    "Models",
    "NotFound",
    "Output",
    "Picture",
    "Placement",
    "Progress",
    "RateLimited",
    "Result",
    "Row",
    "RowsRefused",
    "Sheet",
    "Source",
    "Unauthorized",
    "Unavailable",
    "Variants",
    "WaitTimeout",
    "WorkflowResult",
    "__version__",
    "errors",
    "webhooks",
]
