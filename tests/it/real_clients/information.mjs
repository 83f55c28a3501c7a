// Uploads to URL (argument 1) over HTTP/1.1 or HTTP/2 (argument 2: "1" or "2") and prints all events in
// order, one JSON object per line. Sends the body only after an interim response, so a server that
// sends none gets no body.
import http from 'node:http';
import http2 from 'node:http2';

const [url, version] = process.argv.slice(2);
const body = Buffer.alloc(50000, 'x');
const fields = {
  'upload-draft-interop-version': '6',
  'upload-complete': '?1',
  'content-length': body.length,
};
const say = (event) => console.log(JSON.stringify(event));

if (version === '1') {
  const request = http.request(url, { method: 'PUT', headers: fields });
  request.on('information', ({ statusCode, headers }) => {
    say({ interim: statusCode, location: headers.location });
    if (!request.writableEnded) {
      say({ sent: body.length });
      request.end(body);
    }
  });
  request.on('response', (response) => {
    say({ final: response.statusCode, complete: response.headers['upload-complete'] });
    response.resume();
  });
  request.on('error', (error) => say({ error: error.message }));
  request.flushHeaders();
} else {
  const { origin, pathname } = new URL(url);
  const session = http2.connect(origin);
  const request = session.request({ ':method': 'PUT', ':path': pathname, ...fields });
  request.on('headers', (headers) => {
    say({ interim: headers[':status'], location: headers.location });
    if (!request.writableEnded) {
      say({ sent: body.length });
      request.end(body);
    }
  });
  request.on('response', (headers) => {
    say({ final: headers[':status'], complete: headers['upload-complete'] });
  });
  request.on('error', (error) => say({ error: error.message }));
  request.on('close', () => session.close());
  request.resume();
}
