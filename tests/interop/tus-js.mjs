// tus-js-client uploads FILE to URL: `node tus-js.mjs URL FILE OPTIONS`, where OPTIONS are those of tus.Upload as JSON.
// Five more are ours: `terminate` has the complete upload terminated, `name` is the file name to send, `input` one of those below, `store` a file that remembers uploads from one run to the next, and
// `leaveAt` ends this run once so many bytes are accepted. The last line of output is JSON: where the upload is, how often
// it was interrupted, and whether this run found it begun.
import { createReadStream, readFileSync } from 'node:fs';
import { PassThrough } from 'node:stream';

import * as tus from 'tus-js-client';

const [endpoint, file, options] = process.argv.slice(2);
const { name, input = 'memory', store, leaveAt, terminate, ...given } = JSON.parse(options);
const Storage = tus.FileUrlStorage ?? tus.default.FileUrlStorage;

let interruptions = 0;
let resumed = false;
const say = () => console.log(JSON.stringify({ upload: new URL(upload.url, endpoint).pathname, interruptions, resumed }));

// A whole file in memory stands for the Blob that browsers have. Of a file stream, 4.3.1 never says that a part of it is the
// last one, so in the IETF protocols such an upload stays open for ever once it was interrupted.
const inputs = {
  memory: () => readFileSync(file),
  file: () => createReadStream(file),
  stream: () => createReadStream(file).pipe(new PassThrough()),
};

const upload = new tus.Upload(inputs[input](), {
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
