import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: 'es2022',
    rollupOptions: { input: { call: 'index.html', status: 'status.html' } },
  },
  worker: { format: 'es' },
  // `npm run dev` serves the page itself and hands the rest to a gateway on this machine.
  server: { proxy: { '/v1': { target: 'http://localhost:8080', ws: true } } },
  test: { include: ['test/**/*.test.ts'] },
});
