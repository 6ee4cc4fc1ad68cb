// Work spread over threads, item by item.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

// work(next) on up to `threads` threads; next() is the next item that nobody has, `items` or more when none is left.
template <class Work>
static void spread(int64_t items, int64_t threads, Work work) {
    std::atomic<int64_t> taken{0};
    const auto next = [&] { return taken++; };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < std::min(threads, items); ++i) others.emplace_back([&] { work(next); });
    } catch (const std::system_error&) {
        // the system gives no more threads: these do all the work
    }
    work(next);
    for (std::thread& other : others) other.join();
}

// A Coder for each thread, made of the job, codes the clients that nobody has. 0, or 1 if memory ran out.
template <class Coder, class Job>
static int code_all(const Job& job) {
    std::atomic<int> failed{0};
    try {
        spread(job.clients, job.threads, [&](const auto& next) {
            try {
                Coder coder(job);
                for (int64_t client; (client = next()) < job.clients;) coder.code(client);
            } catch (const std::bad_alloc&) {
                failed = 1;
            }
        });
    } catch (const std::bad_alloc&) {
        failed = 1;
    }
    return failed;
}
