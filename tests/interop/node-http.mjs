// Uploads FILE to URL with Node's own HTTP/1.1 or HTTP/2: `node node-http.mjs URL FILE 1|2`, like an
// app that implements only the draft (interop 6): one PUT, and after each interruption a HEAD and a
// PATCH for the rest. The last line of output is JSON: path of the upload, number of interruptions,
// final status.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';

const [target, file, version] = process.argv.slice(2);
const body = readFileSync(file);
const interop = { 'upload-draft-interop-version': '6' };

// Each function returns { status, headers } or throws, and calls `interim` with the headers of each
// 104.
const exchangeOver = {
  1: (url, method, headers, bytes, interim) => new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers, agent: false });
    request.on('information', ({ statusCode, headers }) => statusCode === 104 && interim(headers));
    request.on('response', (response) => {
      response.resume();
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(bytes);
  }),
  2: (url, method, headers, bytes, interim) => new Promise((resolve, reject) => {
    const session = http2.connect(url.origin);
    session.on('error', reject);
    const request = session.request({ ':method': method, ':path': url.pathname, ...headers });
    let final;
    request.on('headers', (headers) => headers[':status'] === 104 && interim(headers));
    request.on('response', (headers) => { final = { status: headers[':status'], headers }; });
    request.on('error', reject);
    request.on('close', () => {
      session.destroy();
      if (final && request.rstCode === 0 && request.readableEnded) resolve(final);
      else reject(new Error('the stream ended early'));
    });
    request.resume();
    request.end(bytes);
  }),
};
const exchange = exchangeOver[version];

const url = new URL(target);
let upload;
let offset = 0;
let interruptions = 0;
for (;;) {
  try {
    const interim = ({ location }) => { if (location) upload ??= new URL(location, url); };
    let answer;
    if (!upload) {
      const fields = { ...interop, 'upload-complete': '?1', 'content-length': body.length };
      answer = await exchange(url, 'PUT', fields, body, interim);
    } else {
      const { status, headers } = await exchange(upload, 'HEAD', interop, undefined, () => {});
      if (status !== 204) throw new Error(`HEAD: ${status}`);
      offset = Number(headers['upload-offset']);
      const fields = {
        ...interop,
        'upload-complete': '?1',
        'upload-offset': offset,
        'content-type': 'application/partial-upload',
        'content-length': body.length - offset,
      };
      answer = await exchange(upload, 'PATCH', fields, body.subarray(offset), () => {});
    }
    console.log(JSON.stringify({ upload: upload?.pathname, interruptions, status: answer.status }));
    break;
  } catch (error) {
    interruptions += 1;
    if (process.env.TRACE) console.error(offset, String(error));
    if (interruptions > 50) throw error;
  }
}
