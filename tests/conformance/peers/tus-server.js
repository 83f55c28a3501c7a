// Runs @tus/server with @tus/file-store: `npm ci && npm run tus` listens on PORT (default 1080) of the
// loopback interface. MAX_SIZE is the largest upload in bytes, 0 for any (default 64 MiB). Uploads go
// to a temporary directory that is removed when the server ends.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { FileStore } from '@tus/file-store';
import { Server } from '@tus/server';

const port = Number(process.env.PORT ?? 1080);
const directory = await mkdtemp(join(tmpdir(), 'tus-peer-'));
const server = new Server({
  path: '/files',
  datastore: new FileStore({ directory, expirationPeriodInMilliseconds: 24 * 60 * 60 * 1000 }),
  maxSize: Number(process.env.MAX_SIZE ?? 64 * 1024 * 1024),
  relativeLocation: true,
});

const listener = server.listen({ host: '127.0.0.1', port }, () => {
  console.log(`http://127.0.0.1:${listener.address().port}/files`);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    listener.closeAllConnections();
    listener.close();
    await rm(directory, { recursive: true, force: true });
    process.exit(0);
  });
}
