// Uploads FILE to URL with tus-js-client: `node tus-js.mjs URL FILE OPTIONS`. OPTIONS are those of
// tus.Upload as JSON, and five more: `terminate` terminates the complete upload, `name` is the file
// name to send, `input` one of the inputs below, `store` a file that keeps uploads between runs, and
// `leaveAt` ends this run once that many bytes are accepted. The last line of output is JSON: path of
// the upload, number of interruptions, and whether this run resumed an earlier upload.
import { createReadStream, readFileSync } from 'node:fs';
import { PassThrough } from 'node:stream';

import * as tus from 'tus-js-client';

const [endpoint, file, options] = process.argv.slice(2);
const { name, input = 'memory', store, leaveAt, terminate, ...given } = JSON.parse(options);
const Storage = tus.FileUrlStorage ?? tus.default.FileUrlStorage;

let interruptions = 0;
let resumed = false;
const say = () => console.log(JSON.stringify({ upload: new URL(upload.url, endpoint).pathname, interruptions, resumed }));

// A file in memory stands for the Blob of browsers. With a file stream, 4.3.1 never marks a part as
// the last one, so in the IETF protocols an upload that was interrupted stays open for ever.
const inputs = {
  memory: () => readFileSync(file),
  file: () => createReadStream(file),
  stream: () => createReadStream(file).pipe(new PassThrough()),
};

const upload = new tus.Upload(inputs[input](), {
  endpoint,
  metadata: { filename: name },
  // Progress restarts the list.
  retryDelays: Array(10).fill(20),
  ...(store && { urlStorage: new Storage(store), removeFingerprintOnSuccess: true }),
  ...given,
  onAfterResponse: (request, response) => {
    if (process.env.TRACE) console.error(request.getMethod(), request.getURL(), response.getStatus());
  },
  onShouldRetry: (error) => {
    interruptions += 1;
    // A refusal is a failure of the test and must not be retried.
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
  onSuccess: async () => {
    if (terminate) await upload.abort(true);
    say();
  },
});

const previous = store ? await upload.findPreviousUploads() : [];
if (previous.length > 0) {
  resumed = true;
  upload.resumeFromPreviousUpload(previous[0]);
}
upload.start();
