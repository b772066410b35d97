// Two pages, served by the program itself: everything under /static/, nothing from another host.
import { defineConfig } from "vite";

export default defineConfig({
  base: "/static/",
  build: {
    outDir: "../src/marketd/api/static",
    emptyOutDir: true,
    // Assets stay files, so that the pages keep working under `default-src 'self'`.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.txt" },
    chunkSizeWarningLimit: 2000,
    rolldownOptions: { input: ["index.html", "docs.html"] },
  },
});
