"""Uploads FILE to URL with tuspy: `python tuspy-upload.py URL FILE OPTIONS`.

OPTIONS are those of tuspy's uploader, as JSON; `name` is the file name to send. The last line of
output is JSON: path of the upload, and number of interruptions.
"""

import json
import sys
from urllib.parse import urlsplit

from tusclient.client import TusClient
from tusclient.uploader import Uploader


class Counting(Uploader):
    """Counts the requests for the offset."""

    interruptions = 0

    def get_offset(self):
        self.interruptions += 1
        return super().get_offset()


url, file, options = sys.argv[1:]
options = json.loads(options)
metadata = {"filename": options.pop("name")}
uploader = Counting(
    file,
    client=TusClient(url),
    metadata=metadata,
    retries=30,
    retry_delay=0,
    **options,
)
uploader.upload()
print(json.dumps({"upload": urlsplit(uploader.url).path, "interruptions": uploader.interruptions}))
