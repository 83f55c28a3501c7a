// tus-js-client uploads FILE to URL: `node tus-js.mjs URL FILE OPTIONS`, where OPTIONS are those of tus.Upload as JSON.
// Three more are ours: `name` is the file name to send, `store` a file that remembers uploads from one run to the next, and
// `leaveAt` ends this run once so many bytes are accepted. The last line of output is JSON: where the upload is, how often
// it was interrupted, and whether this run found it begun.
import { createReadStream } from 'node:fs';

import * as tus from 'tus-js-client';

const [endpoint, file, options] = process.argv.slice(2);
const { name, store, leaveAt, ...given } = JSON.parse(options);
const Storage = tus.FileUrlStorage ?? tus.default.FileUrlStorage;

let interruptions = 0;
let resumed = false;
const say = () => console.log(JSON.stringify({ upload: new URL(upload.url, endpoint).pathname, interruptions, resumed }));

const upload = new tus.Upload(createReadStream(file), {
  endpoint,
  metadata: { filename: name },
  // Progress starts the list anew.
  retryDelays: Array(10).fill(20),
  ...(store && { urlStorage: new Storage(store), removeFingerprintOnSuccess: true }),
  ...given,
  onAfterResponse: (request, response) => {
    if (process.env.TRACE) console.error(request.getMethod(), request.getURL(), response.getStatus());
  },
  onShouldRetry: (error) => {
    interruptions += 1;
    // A refusal is a finding, never something to try again.
    return !error.originalResponse;
  },
  onChunkComplete: (size, accepted) => {
    if (leaveAt && accepted >= leaveAt) {
      say();
      process.exit(0);
    }
  },
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: say,
});

const previous = store ? await upload.findPreviousUploads() : [];
if (previous.length > 0) {
  resumed = true;
  upload.resumeFromPreviousUpload(previous[0]);
}
upload.start();
