// Work shared out among threads, item by item.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

// Each thread makes itself a worker and calls it with items until none is left. Returns 0, or 1 if memory ran out.
template <class Make>
static int share(int64_t items, int64_t threads, Make make) {
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    const auto work = [&] {
        try {
            auto worker = make();
            for (int64_t item; (item = next++) < items;) worker(item);
        } catch (const std::bad_alloc&) {
            failed = 1;
        }
    };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < std::min(threads, items); ++i) others.emplace_back(work);
    } catch (const std::system_error&) {
        // the system gives no more threads: these do all the work
    }
    work();
    for (std::thread& other : others) other.join();
    return failed;
}
